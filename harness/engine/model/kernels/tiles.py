"""Sizes of tiles that several kernels share."""

from __future__ import annotations

import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone

#: Ranks that a program keeps; larger ones are taken in parts.
RANKS = 64


def ranks_of(rank: int) -> int:
    """Ranks that a program keeps: a power of two from 16, the least of tensor cores."""
    return min(RANKS, max(16, triton.next_power_of_2(rank)))
