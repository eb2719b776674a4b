"""Tasks that are folders here: ``NAME.yaml`` in lm-eval's format with a ``metadata`` block, and ``prepare.py``.

The YAML has no ``dataset_path``: the splits are built into the cache and handed to lm-eval by the scorer.  Format and
steps: ``tasks/README.md``.
"""
