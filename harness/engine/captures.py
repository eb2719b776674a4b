"""Captures of CUDA graphs, and what another thread does on the same GPU meanwhile.

A capture forbids its own thread alone what would break it.  But libraries load kernels at their first use, and may wait
for the whole device, which no mode of captures allows for: so what may do that, and captures, wait for each other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
