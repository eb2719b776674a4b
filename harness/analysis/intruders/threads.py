"""Work on matrices that are too small to occupy all cores one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def threads_of(device: torch.device) -> int:
    """Pieces that are worked on at a time: one a thread of a CPU."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def side_by_side(work: Callable[[Part], Result], parts: Sequence[Part], device: torch.device) -> list[Result]:
    """Each part by one thread, with the numbers that one thread alone would give."""
    threads = threads_of(device)
    if threads == 1 or len(parts) == 1:
        return [work(part) for part in parts]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, parts))
    finally:
        torch.set_num_threads(threads)  # a worker's setting reaches the BLAS of the whole process
