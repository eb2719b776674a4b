"""What a job shows of its speed and its memory while it is at work; nothing here waits for a GPU."""

from __future__ import annotations

import time
from collections import deque

import torch

from harness.engine.environment import peak_memory_gib

#: Seconds that a speed is a mean over, and between two looks at time and memory.
WINDOW, LOOK_EVERY = 10.0, 0.5


class Gauge:
    """Tokens a second over the last ten seconds, and the most memory since the job began.

    Steps are counted when they are launched.  A GPU may be some steps behind, never more than it takes in advance.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tokens = 0.0
        self._looks: deque[tuple[float, float]] = deque([(time.monotonic(), 0.0)])  #: (when, tokens until then)
        self._figures: dict[str, float] = {}

    def count(self, tokens: float) -> dict[str, float]:
        """Add tokens that have been worked on; the figures of now."""
        self._tokens += tokens
        now = time.monotonic()
        if now - self._looks[-1][0] >= LOOK_EVERY or not self._figures:
            self._look(now)
        return self._figures

    def _look(self, now: float) -> None:
        while len(self._looks) > 1 and now - self._looks[0][0] > WINDOW:
            self._looks.popleft()
        when, before = self._looks[0]
        self._figures = {"memory_gib": peak_memory_gib(self._device)}
        if now > when and self._tokens > before:
            self._figures["tokens_per_second"] = (self._tokens - before) / (now - when)
        self._looks.append((now, self._tokens))
