"""The figures: one module a figure, and the registry that names them all."""
