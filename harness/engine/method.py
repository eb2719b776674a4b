"""The contract under its old name, for the sources of ``baselines``."""

from harness.method.recipe import *  # noqa: F403
