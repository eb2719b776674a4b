"""Jobs that do nothing, for ``lorabench perf jobs``: workers import this, so it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.executors.interface import Outcome, Report, Work
from harness.store.records import Failure, Status


@dataclass(frozen=True)
class Trivial:
    """A job for one CPU."""

    name: str
    folder: Path
    device: str = "cpu"
    threads: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    stall_minutes: float = 5.0


def _do(job: Trivial, report: Report) -> Outcome:
    return Outcome(job.name)


def _give_up(job: Trivial, status: Status, failure: Failure) -> Outcome:
    return Outcome(job.name, status, failure.message)


WORK = Work(_do, _give_up)
