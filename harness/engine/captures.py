"""Captures of CUDA graphs, and what another thread does on the same GPU meanwhile.

A capture forbids its own thread alone what would break it.  But libraries load kernels at their first use, and may wait
for the whole device, which no mode of captures allows for: so what may do that, and captures, wait for each other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

#: Another thread may allocate while a graph is captured: the decomposition of the base does.
OWN_THREAD = "thread_local"

_next, _device = threading.Lock(), threading.Lock()


@contextmanager
def capturing() -> Iterator[None]:
    """For a capture: it is the next to come, and nothing is beside it."""
    with _next, _device:
        yield


@contextmanager
def beside_captures() -> Iterator[None]:
    """For a short piece of work of another thread, which lets a capture that waits go before it."""
    with _next:
        pass
    with _device:
        yield


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures: libraries keep room for each stream that they have run on."""
    return torch.cuda.Stream(device)


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Work on the stream of captures, on a GPU, between what came before and what comes after."""
    if device.type != "cuda":
        yield
        return
    stream, current = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        current.wait_stream(stream)


def why_not(error: RuntimeError) -> str:
    """Of a capture that failed, in a line."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
