"""Work on matrices that are too small to occupy all cores one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

Part = TypeVar("Part")
Result = TypeVar("Result")


def threads_of(device: torch.device) -> int:
    """Pieces that are worked on at a time: one a thread of a CPU."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@cache
def _libraries() -> ThreadpoolController:
    """Looking for them takes a millisecond."""
    return ThreadpoolController()


def side_by_side(work: Callable[[Part], Result], parts: Sequence[Part], device: torch.device) -> list[Result]:
    """Each part by one thread, with the numbers that one thread alone would give."""
    threads = threads_of(device)
    if threads == 1 or len(parts) == 1:
        with _libraries().limit(limits=threads, user_api="blas"):  # numpy's, which torch's setting does not reach
            return [work(part) for part in parts]
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        with _libraries().limit(limits=1, user_api="blas"), pool:
            return list(pool.map(work, parts))
    finally:
        torch.set_num_threads(threads)  # a worker's setting reaches the BLAS of the whole process
