"""How far a run is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from harness.cli.show.screen import clock, screen
from harness.cli.terminal import say, visible
from harness.executors.interface import Watcher


class _Remaining(ProgressColumn):
    """Time left, from the mean speed since the packs began: the work is counted in even units."""

    def render(self, task: Task) -> Text:
        started = task.fields.get("started")
        if not task.total or started is None or task.completed <= 0:
            return Text("ETA -:--")
        spent = time.monotonic() - started
        return Text(f"ETA {clock(spent * (task.total - task.completed) / task.completed)}")


class _Doing(ProgressColumn):
    """What is being done."""

    def render(self, task: Task) -> Text:
        return Text(visible(task.description))


@contextmanager
def progress(name: str, complete: bool = False) -> Iterator[Watcher]:
    """A bar on a terminal; a line now and then in a log file; neither where all is ``complete``."""
    bar = Progress(
        SpinnerColumn(),
        _Doing(),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        _Remaining(),
        TimeElapsedColumn(),
        console=screen,
        transient=True,
    )
    task = bar.add_task("starting", total=None, started=None)
    done: dict[str, float] = {}
    log = _LogLines(name)

    def total(units: float) -> None:
        done.clear()
        bar.update(task, total=max(units, 1.0), completed=0, started=time.monotonic())
        log.begin(units)

    def report(job: str, units: float, what: str) -> None:
        done[job] = units
        bar.update(task, description=what)
        if job != "base":
            bar.update(task, completed=sum(done.values()))
        log.step(sum(done.values()), what)

    if complete:
        yield Watcher(total, report)
    elif screen.is_terminal:
        with bar:
            yield Watcher(total, report)
    else:
        yield Watcher(total, report)


class _LogLines:
    """One line every half minute where there is no terminal."""

    every = 30.0

    def __init__(self, name: str) -> None:
        self.name, self.units, self.started, self.last = name, 0.0, time.monotonic(), 0.0

    def begin(self, units: float) -> None:
        self.units, self.started, self.last = units, time.monotonic(), 0.0

    def step(self, done: float, what: str) -> None:
        now = time.monotonic()
        if screen.is_terminal or now - self.last < self.every:
            return
        self.last = now
        if not self.units or not done:
            say(f"[{self.name}] {what}", err=True)
            return
        left = (now - self.started) * (self.units - done) / done
        say(f"[{self.name}] {100 * done / self.units:3.0f}%  ETA {clock(left)}  {what}", err=True)
