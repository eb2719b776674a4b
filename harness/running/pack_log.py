"""A log of every job in ``logs/``: what it was doing when, all that Python printed meanwhile, and how it ended.

A pack that is tried again writes below what is there.  What it prints goes where it went before as well.  A log is no
result: where it can't be written, there is none.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TextIO

from harness.executors.interface import Figures

#: Seconds after which a job that does what it did is noted again.
EVERY = 30.0
#: Characters of one job's log in one try; a method may print without end.
LARGEST = 10_000_000


class Logged(Protocol):
    """What a log asks of its job."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    @property
    def number(self) -> int | None: ...

    @property
    def about(self) -> str: ...


def log_path(job: Logged) -> Path:
    """``logs/pack-0003-NAME.log``: number and name of the pack."""
    number = f"pack-{job.number:04}-" if job.number else ""
    return job.folder / "logs" / f"{number}{job.name}.log"


class PackLog:
    """The log of one try of a job."""

    def __init__(self, file: TextIO | None) -> None:
        self._file, self._room = file, LARGEST
        self._what, self._last = "", 0.0

    def write(self, text: str) -> None:
        """Text as it is, as long as there is room."""
        if self._file is None or self._room <= 0:
            return
        self._room -= len(text)
        with contextlib.suppress(OSError, ValueError):
            self._file.write(text if self._room > 0 else f"{text[:1000]}\n(the rest of this log is left out)\n")
            self._file.flush()

    def say(self, text: str) -> None:
        """A line, or several, with the time."""
        self.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")

    def report(self, what: str, figures: Figures) -> None:
        """What the job is doing: where that is something else than before, and now and then."""
        now = time.monotonic()
        if what == self._what and now - self._last < EVERY:
            return
        self._what, self._last = what, now
        parts = (
            what,
            f"step {figures['step']:.0f}/{figures['steps']:.0f}" if "step" in figures else "",
            f"{figures['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in figures else "",
            f"{figures['memory_gib']:.1f} GiB" if "memory_gib" in figures else "",
        )
        self.say("  ".join(filter(None, parts)))


#: Of the job at work in this process.
_current: PackLog | None = None


class _Tee:
    """A stream that is also written to the log of the job at work, whenever it was made: libraries keep theirs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if _current is not None:
            _current.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def logged(job: Logged) -> Iterator[PackLog]:
    """The job's log while it is at work in this process."""
    global _current
    with contextlib.ExitStack() as stack:
        log = PackLog(_opened(job, stack))
        log.say(f"{job.about}: begins in process {os.getpid()} on {socket.gethostname()}")
        before, _current = _current, log
        stack.enter_context(redirect_stdout(_Tee(sys.stdout)))
        stack.enter_context(redirect_stderr(_Tee(sys.stderr)))
        try:
            yield log
        except BaseException as stop:
            log.say(f"stopped: {type(stop).__name__}: {stop}")
            raise
        finally:
            _current = before


def note(job: Logged, text: str) -> None:
    """Put something below a job's log, whichever process had it."""
    with contextlib.ExitStack() as stack:
        PackLog(_opened(job, stack)).say(text)


def _opened(job: Logged, stack: contextlib.ExitStack) -> TextIO | None:
    with contextlib.suppress(OSError):
        path = log_path(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        return stack.enter_context(path.open("a", encoding="utf-8", errors="backslashreplace"))
    return None
