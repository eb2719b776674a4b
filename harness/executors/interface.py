"""What an executor knows of the work it does: a job by its name and needs, and two functions; nothing of studies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from harness.store.records import Failure, Status
from harness.store.standing import Standing
from harness.study.config import ResourceSettings
from harness.study.stack import Device

Answer = TypeVar("Answer")

#: Numbers that a job shows to people, by names of its own; an executor carries them.
Figures = Mapping[str, float]
NO_FIGURES: Figures = {}

#: What a job is doing before it says so itself.
STARTING = "starting"
#: What an executor says of a job, in place of what it is doing, once its outcome is there.
ENDED, FAILED = "ended", "failed"


class Report(Protocol):
    """Called by a job with the units of work done so far, what is being done, and its figures."""

    def __call__(self, units: float, what: str, figures: Figures = NO_FIGURES, /) -> None: ...


class Watch(Protocol):
    """Called by an executor with a job's name and what the job has reported; and once with how it came out."""

    def __call__(self, job: str, units: float, what: str, figures: Figures = NO_FIGURES, /) -> None: ...


class Job(Protocol):
    """A unit of work that depends on no other."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path:
        """The study's results; files of a job at work lie in its folder ``running``."""
        ...

    @property
    def device(self) -> str:
        """``cpu``, or ``cuda``: one GPU."""
        ...

    @property
    def threads(self) -> int:
        """CPU threads."""
        ...

    @property
    def cpus(self) -> float:
        """CPUs that a cluster counts for it."""
        ...

    @property
    def gpus(self) -> float:
        """GPUs that a cluster counts for it: 0, 1, or the share of a card that it needs."""
        ...

    @property
    def stall_minutes(self) -> float:
        """A job that reports nothing for so long is stopped."""
        ...


@dataclass(frozen=True)
class Span:
    """Where and when a job was at work, in seconds since 1970 by the clock of that machine."""

    place: str  #: a machine, or a GPU of it
    began: float
    ready: float  #: what it needs was loaded
    ended: float


@dataclass(frozen=True)
class Outcome:
    """What became of a job; ``failed`` is None where it was done."""

    job: str
    failed: Status | None = None
    message: str = ""
    span: Span | None = None  #: None where the job's worker died or stood still
    attempts: int = 1  #: the worker of every one but the last died


def tell_end(watch: Watch, outcome: Outcome) -> None:
    """Say that a job's outcome is there, as every executor does once for every job."""
    watch(outcome.job, 0.0, FAILED if outcome.failed else ENDED)


def in_folder(job: Any, folder: Path) -> Any:
    """The same job, a dataclass, with its results in another folder."""
    return replace(job, folder=folder)


@dataclass(frozen=True)
class Work:
    """What is done with the jobs of a run: functions of modules, so that a worker in another process has them by name.

    ``do`` does a job and gives what became of it; what it raises ends the run.  A job whose worker died or stood still
    is handed to ``give_up`` with how that ended and why.  Both take the jobs that ``run`` was given, of whatever kind.
    ``move`` makes of a job the same one with its results in another folder, on a machine that sees none of the run's.
    """

    do: Callable[[Any, Report], Outcome]
    give_up: Callable[[Any, Status, Failure], Outcome]
    move: Callable[[Any, Path], Any] = in_folder


class Executor(Protocol):
    """Runs jobs that do not depend on each other."""

    def device(self, wanted: str, resources: ResourceSettings | None = None) -> Device:
        """What the jobs of a study run on that wants ``cpu``, ``cuda`` or ``any``, and these resources.

        Raises InputError for a GPU that is not there.
        """
        ...

    def ask(self, question: Callable[[], Answer], device: Device) -> Answer:
        """What a function (of a module, with what it is given) answers on a machine that jobs for this device run on.

        Raises what the function raises.
        """
        ...

    def run(self, jobs: Sequence[Job], work: Work, watch: Watch) -> list[Outcome]:
        """The outcome of every job, in order.  Jobs that raise stop the run; what has been written stays."""
        ...

    def describe(self) -> str:
        """What there is to run on, in a line."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Watcher:
    """What long work tells whoever watches it."""

    total: Callable[[float], None]  #: units of all the work, once known
    progress: Callable[[str, float, str], None]  #: a job's name, its units so far, what it is doing
    standing: Callable[[Standing], None] = lambda standing: None  #: how far a run is, put together from all that


class StalledError(BaseException):
    """A job has reported nothing for too long.  No ``except Exception`` of a method may catch it."""


def stalled(job: Job, phase: str, traceback: str = "") -> Failure:
    """Why a job was stopped that reported nothing for too long."""
    message = f"no sign of life for {job.stall_minutes:g} minutes (stall_minutes in the study)"
    return Failure(phase=phase, message=message, traceback=traceback)
