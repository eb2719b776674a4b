"""How far a run is, while it runs: a live table on a terminal, lines now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import RenderableType
from rich.live import Live

from harness.cli.show.screen import screen
from harness.cli.show.standing import lines, view
from harness.cli.terminal import visible
from harness.executors.interface import Watcher
from harness.store.standing import Standing

#: Lines of a terminal that are not for jobs: title, head, what is more, bar, and the cursor's.
AROUND = 5


@contextmanager
def progress(name: str, complete: bool = False) -> Iterator[Watcher]:
    """A live table on a terminal; lines now and then in a log file; neither where all is ``complete``."""
    shown = _Table(name) if screen.is_terminal and not complete else None
    log = _LogLines(name) if not screen.is_terminal and not complete else None

    def show(standing: Standing) -> None:
        if shown:
            shown.standing = standing
        elif log:
            log.step(standing)

    sums = _Sums(name)

    def total(units: float) -> None:
        sums.begin(units)

    def report(job: str, units: float, what: str) -> None:
        if not sums.silent:
            show(sums.step(job, units, what))

    def standing(now: Standing) -> None:
        sums.silent = True  # who sends these has put everything together
        show(now)

    watcher = Watcher(total, report, standing)
    if shown:
        with Live(get_renderable=shown.view, console=screen, transient=True):
            yield watcher
    else:
        yield watcher


class _Table:
    """What the terminal shows of the latest standing."""

    def __init__(self, name: str) -> None:
        self.standing = Standing(study=name, what="starting")

    def view(self) -> RenderableType:
        return view(self.standing, max(3, screen.height - AROUND), screen.width)


class _Sums:
    """How far work of one job is that has no packs: an audit, a mitigation."""

    def __init__(self, name: str) -> None:
        self.silent = False
        self._name, self._units, self._began = name, 0.0, time.monotonic()
        self._start = self._began
        self._done: dict[str, float] = {}

    def begin(self, units: float) -> None:
        self._done.clear()
        self._units, self._began = max(units, 1.0), time.monotonic()

    def step(self, job: str, units: float, what: str) -> Standing:
        if job != "base":
            self._done[job] = units
        now, done = time.monotonic(), sum(self._done.values())
        share = min(1.0, done / self._units) if self._units and done else None
        left = (now - self._began) * (1 - share) / share if share else None
        return Standing(study=self._name, what=what, share=share, seconds_spent=now - self._start, seconds_left=left)


class _LogLines:
    """Some lines every half minute where there is no terminal, when the first pack begins and when all is done."""

    every = 30.0

    def __init__(self, name: str) -> None:
        self.name, self.last, self.phase = name, -self.every, 0
        self._file: TextIO = sys.stderr  # of the beginning: a job's output may be kept apart meanwhile

    def step(self, standing: Standing) -> None:
        now, phase = time.monotonic(), _phase(standing)
        if not phase or (now - self.last < self.every and phase <= self.phase):
            return
        self.last, self.phase = now, max(phase, self.phase)
        for line in lines(standing):
            print(visible(f"[{self.name}] {line}"), file=self._file, flush=True)


def _phase(standing: Standing) -> int:
    """What is said at once when it is first reached: 1 some work, 2 a pack's stream, 3 the end; of 0 nothing is."""
    if standing.share == 1 and not standing.jobs:
        return 3
    if any(job.position for job in standing.jobs):
        return 2
    return 1 if standing.jobs or not standing.packs else 0
