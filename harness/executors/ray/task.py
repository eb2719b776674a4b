"""A worker's side of a job: its signs of life, and what tells how it died, in files beside the checkpoints.

``NAME.progress`` is [units, what it is doing, process, figures]; it is replaced at every report and gone when the job
is done.
``NAME.crash`` is empty until a signal that Python can see (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT) ends the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.executors.interface import NO_FIGURES, STARTING, Figures, Job, Outcome, Work
from harness.executors.ray import staying
from harness.executors.ray.look import unhide
from harness.executors.ray.opening import opened
from harness.store.records import Failure

if TYPE_CHECKING:
    from harness.executors.ray.away import Errand


@dataclass(frozen=True)
class Signs:
    """The files of one job's worker."""

    progress: Path
    crash: Path

    @classmethod
    def of(cls, job: Job) -> Signs:
        stem = job.folder / "running" / job.name
        return cls(stem.with_name(f"{stem.name}.progress"), stem.with_name(f"{stem.name}.crash"))

    def remove(self) -> None:
        for path in (self.progress, self._new, self.crash):
            path.unlink(missing_ok=True)

    def read_crash(self) -> str:
        """What Python wrote when a signal ended the worker; empty where none did that it can see."""
        try:
            return self.crash.read_text(errors="replace").strip()
        except OSError:
            return ""

    @property
    def _new(self) -> Path:
        return self.progress.with_name(f"{self.progress.name}.new")

    def write(self, units: float, what: str, figures: Figures = NO_FIGURES) -> None:
        self.put(json.dumps([units, what, os.getpid(), dict(figures)]).encode())

    def put(self, content: bytes) -> None:
        """What :meth:`write` makes, here or on another machine."""
        self._new.write_bytes(content)
        self._new.replace(self.progress)


def carry_out(job: Job, work: Work, errand: Errand | None = None) -> Outcome | None:
    """The job, in a worker; None: not in this process, which leaves, as it does after a job that has not been done.

    ``errand`` is for a machine that may not see the job's folder.  ``sys.exit``, wherever it is called, is an error as
    any other and not a worker's end.
    """
    die_with_parent()
    outcome = None
    try:
        if not staying.moved():
            outcome = _signed(job, work) if errand is None or errand.at_home() else _away(job, work, errand)
        return outcome
    finally:
        if outcome is None or outcome.failed:
            staying.leave()


def packed(job: Job, work: Work) -> bytes:
    """A job with its work for :func:`carry_out_packed`: Ray takes three times as long to pickle the two by itself."""
    return pickle.dumps((job, work))


def carry_out_packed(content: bytes, errand: Errand | None) -> Outcome | None:
    """What :func:`carry_out` gives; the job is at work from when it is here: a new process imports torch first."""
    arrived = time.time()
    job, work = opened(content)
    outcome = carry_out(job, work, errand)
    if outcome is None or outcome.span is None:
        return outcome
    return replace(outcome, span=replace(outcome.span, began=arrived))


def answer(question: bytes) -> Any:
    """What a pickled function of no arguments gives here, in a process that has not asked CUDA for anything yet."""
    unhide()
    return opened(question)()


def _away(job: Job, work: Work, errand: Errand) -> Outcome:
    """The job, in a folder of this machine; what it writes there is sent home."""
    from harness.executors.ray.away import Courier, borrowed_folder  # with ray, which has its settings by now

    with borrowed_folder() as folder:
        courier = Courier(folder, job.name, errand)
        courier.fetch("base.json", f"running/{job.name}.safetensors")
        try:
            outcome = _signed(work.move(job, folder), work, courier.say)
        except BaseException:
            with contextlib.suppress(Exception):
                courier.send_logs()
            raise
        courier.send_logs()
        courier.sync()
        return outcome


def _signed(job: Job, work: Work, tell: Callable[[bytes], None] = lambda content: None) -> Outcome:
    """The job, with its signs of life, of which ``tell`` is told as well."""
    signs, phase = Signs.of(job), STARTING
    signs.progress.parent.mkdir(parents=True, exist_ok=True)
    signs.remove()  # a worker that died on this job before, and is tried again, left its own

    def report(units: float, what: str, figures: Figures = NO_FIGURES) -> None:
        nonlocal phase
        phase = what
        signs.write(units, what, figures)
        tell(signs.progress.read_bytes())

    try:
        with _crashes_into(signs.crash):
            report(0, STARTING)
            return work.do(job, report)
    except SystemExit as stop:
        what = f"something called sys.exit({stop.code!r})"
        return work.give_up(job, "error", Failure(phase=phase, message=what, traceback=traceback.format_exc()))
    finally:
        signs.remove()


@contextmanager
def _crashes_into(path: Path) -> Iterator[None]:
    """Where Python stood goes to this file when a signal ends the process; else to stderr, as Ray has it."""
    with path.open("w") as file:
        faulthandler.enable(file, all_threads=False)
        try:
            yield
        finally:
            faulthandler.disable()
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # a stderr that is no file
                faulthandler.enable(sys.__stderr__ or sys.stderr, all_threads=False)


def die_with_parent() -> None:
    """Have the kernel end this process with the one, or the thread, that has started it.

    So a worker ends with its raylet, that with Ray's driver and that with the run.  Ray's workers notice it by
    themselves seconds later; until then, two could work at one pack.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def read_progress(content: bytes) -> tuple[float, str, Figures] | None:
    """(units, what it is doing, figures) of a progress file; None where it is not one."""
    try:
        units, what, _, figures = json.loads(content)
        return float(units), str(what), {str(name): float(value) for name, value in figures.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
