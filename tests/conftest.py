"""Shared by all tests.  Its place also puts ``tests`` on the path, so that ``import helpers`` works everywhere."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
