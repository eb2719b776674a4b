"""The methods that the bench compares, one file each; every module here with a ``METHOD`` is in the registry."""
