"""The jobs one after the other, in this process; Ray is not imported."""

from __future__ import annotations

import gc
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from harness.errors import InputError, LorabenchError
from harness.executors.hardware import device_here, has_gpu
from harness.executors.interface import (
    NO_FIGURES,
    STARTING,
    Answer,
    Figures,
    Job,
    Outcome,
    StalledError,
    Watch,
    Work,
    stalled,
    tell_end,
)
from harness.study.config import ResourceSettings
from harness.study.stack import Device

#: Seconds until a job that has swallowed the first alarm gets the next one.
AGAIN = 5.0


class LocalExecutor:
    def device(self, wanted: str, resources: ResourceSettings | None = None) -> Device:
        there = wanted != "cpu" and has_gpu()
        if wanted == "cuda" and not there:
            raise InputError(
                "the study asks for a GPU, and torch sees none on this machine",
                where="study:device",
                remedy="set device: any, or install a CUDA build of torch (make clean, then make TORCH_INDEX=...)",
            )
        return device_here("cuda" if there else "cpu")

    def ask(self, question: Callable[[], Answer], device: Device) -> Answer:
        return question()

    def run(self, jobs: Sequence[Job], work: Work, watch: Watch) -> list[Outcome]:
        return [_run(job, work, watch) for job in jobs]

    def describe(self) -> str:
        return f"this process, on the {self.device('any').kind}"

    def close(self) -> None:
        pass


make = LocalExecutor


def _run(job: Job, work: Work, watch: Watch) -> Outcome:
    phase = STARTING
    try:
        with _watched(60 * job.stall_minutes) as alive:

            def report(units: float, what: str, figures: Figures = NO_FIGURES) -> None:
                nonlocal phase
                phase = what
                alive()
                watch(job.name, units, what, figures)

            outcome = work.do(job, report)
    except StalledError:
        _disarm()  # or the next alarm comes while this is being written down
        outcome = work.give_up(job, "timeout", stalled(job, phase, traceback.format_exc()))
    tell_end(watch, outcome)
    if outcome.failed:
        _recover(job)
    return outcome


def _recover(job: Job) -> None:
    """Give back what the traceback of a failed job held.  Raises LorabenchError where this process's GPU is lost."""
    gc.collect()
    if job.device != "cuda":
        return
    import torch

    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:  # after an assert on the device nothing works in this process
        raise LorabenchError(
            f"a pack has made the GPU unusable for this process: {error}",
            where=job.name,
            remedy="run the same command again: finished trials are kept; --executor ray goes on in another process",
        ) from error


@contextmanager
def _watched(seconds: float) -> Iterator[Callable[[], None]]:
    """Raise :class:`StalledError` in the job where the function that this gives has not been called for so long.

    By a signal, which reaches whatever Python does, a loop or a sleep, but no call into a library that never returns;
    and only in the main thread: elsewhere nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield lambda: None
        return

    def ring(*_: object) -> None:
        raise StalledError

    def alive() -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)

    before = signal.signal(signal.SIGALRM, ring)
    alive()
    try:
        yield alive
    finally:
        _disarm()
        signal.signal(signal.SIGALRM, before)


def _disarm() -> None:
    """No alarm from here on, where there are any."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
