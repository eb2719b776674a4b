"""Jobs as Ray's driver has them: it knows what they need, and only a worker opens them, with all that this imports."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from harness.executors.interface import Job, Outcome, Report, Work
from harness.executors.ray.opening import opened
from harness.store.records import Failure, Status


@dataclass(frozen=True)
class Needs:
    """What a job needs for a place, whatever it is."""

    name: str
    folder: Path
    device: str
    threads: int
    cpus: float
    gpus: float
    stall_minutes: float

    @classmethod
    def of(cls, job: Job) -> Needs:
        return cls(job.name, job.folder, job.device, job.threads, job.cpus, job.gpus, job.stall_minutes)


@dataclass(frozen=True)
class Sealed(Needs):
    """A job on its way to a worker: ``content`` is the job that it stands for, and what is done with it."""

    content: bytes


@dataclass(frozen=True)
class Waiting(Needs):
    """A job that the run still holds; Ray, which pickles what it sends to a worker, takes it sealed from there.

    A run has up to 20,000 jobs, and each knows of all the others' trials.
    """

    take: Callable[[], bytes]

    @property
    def content(self) -> bytes:
        return self.take()

    def __reduce__(self) -> tuple[type[Sealed], tuple[object, ...]]:
        return Sealed, (*(getattr(self, each.name) for each in fields(Needs)), self.content)


def seal(job: Job, work: Work) -> bytes:
    """A job with its work, small enough for Ray to carry it within a call: an object store may be full."""
    return zlib.compress(pickle.dumps((job, work)), 1)


def _do(sealed: Job, report: Report) -> Outcome:
    job, work = _open(sealed)
    return work.do(job, report)


def _give_up(sealed: Job, status: Status, failure: Failure) -> Outcome:
    job, work = _open(sealed)
    return work.give_up(job, status, failure)


def _move(sealed: Job, folder: Path) -> Job:
    assert isinstance(sealed, Sealed)
    return replace(sealed, folder=folder)


def _open(sealed: Job) -> tuple[Job, Work]:
    assert isinstance(sealed, Sealed | Waiting)
    job, work = opened(zlib.decompress(sealed.content))
    return (job if job.folder == sealed.folder else work.move(job, sealed.folder)), work


#: What is done with sealed jobs: the work that is sealed in each.
SEALED = Work(_do, _give_up, _move)
