"""Models and tasks: pinned sources, fetched once into a cache folder, checked, and read offline ever after."""
