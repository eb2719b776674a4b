"""The jobs one after the other, in this process; Ray is not imported."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from harness.errors import InputError, LorabenchError
from harness.executors import Watch
from harness.run.job import Job
from harness.run.worker import Outcome, StalledError, disarm, execute

#: Seconds until a job that has swallowed the first alarm gets the next one.
AGAIN = 5.0


class LocalExecutor:
    def device(self, wanted: str) -> str:
        there = torch.cuda.is_available()
        if wanted == "cuda" and not there:
            raise InputError(
                "the study asks for a GPU, and torch sees none on this machine",
                where="study:device",
                remedy="set device: any, or install a CUDA build of torch (make clean, then make TORCH_INDEX=...)",
            )
        return "cuda" if there and wanted != "cpu" else "cpu"

    def run(self, jobs: Sequence[Job], watch: Watch) -> list[Outcome]:
        return [_run(job, watch) for job in jobs]

    def close(self) -> None:
        pass


def _run(job: Job, watch: Watch) -> Outcome:
    with _watched(60 * job.study.stall_minutes) as alive:

        def report(units: float, what: str) -> None:
            alive()
            watch(job.name, units, what)

        outcome = execute(job, report)
    if outcome.failed:
        _recover(job)
    return outcome


def _recover(job: Job) -> None:
    """Give back what the traceback of a failed job held.  Raises LorabenchError where this process's GPU is lost."""
    gc.collect()
    if job.device != "cuda":
        return
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:  # after an assert on the device nothing works in this process
        raise LorabenchError(
            f"a pack has made the GPU unusable for this process: {error}",
            where=job.name,
            remedy="run the same command again: finished trials are kept; --executor ray has a process for each pack",
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

    def stalled(*_: object) -> None:
        raise StalledError

    def alive() -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)

    before = signal.signal(signal.SIGALRM, stalled)
    alive()
    try:
        yield alive
    finally:
        disarm()
        signal.signal(signal.SIGALRM, before)
