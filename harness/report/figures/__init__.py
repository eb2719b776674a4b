"""The figures: one module per figure, and the registry that names them all."""
