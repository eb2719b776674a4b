"""What counts for a board, without scipy: plans say beforehand what reports will say, and start in half the time."""

from __future__ import annotations

#: What is called significant, after a correction for many tests.
LEVEL = 0.05
#: Arms with fewer seeds than this are provisional: neither ranked nor tested.
LEAST_SEEDS = 3
