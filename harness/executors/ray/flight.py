"""The jobs of one run on their way through Ray: handed to it, watched, tried again, and their outcomes."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)

from harness.errors import LorabenchError, clipped
from harness.executors.interface import STARTING, Job, Outcome, Watch, Work, stalled, tell_end
from harness.executors.ray.cluster import Cluster
from harness.executors.ray.room import Room
from harness.executors.ray.staying import NEVER, can_leave
from harness.executors.ray.task import Signs, carry_out_packed, packed, read_progress
from harness.store.records import Failure, Status

if TYPE_CHECKING:
    from harness.executors.ray.mail import Mail

POLL_SECONDS = 0.3
STOP_SECONDS = 30.0  #: for a stalled worker to be gone
TRIES = 2  #: of a job whose worker dies: the second may be luckier, with a machine or with memory

#: What a worker's death is to Ray.
DEATHS = (WorkerCrashedError, NodeDiedError, OutOfMemoryError, TaskCancelledError)


def _remote(device: str, stays: bool) -> Any:
    """How Ray runs a job for this device; ``stays``: a process may go on to the next and leaves when it says so.

    Ray tries nothing again: the run does, which then knows that nobody is at a job whose worker died, and Ray keeps
    nothing of jobs that are done.  ``max_calls`` is fixed here: ``options`` does not take it.  A process that can't
    leave does one pack on a GPU, and any number on a CPU (0).
    """
    calls = NEVER if stays else 1 if device == "cuda" else 0
    return ray.remote(max_retries=0, max_calls=calls)(carry_out_packed)


_REMOTE = {device: _remote(device, can_leave()) for device in ("cpu", "cuda")}


@functools.cache
def _with_options(device: str, options: tuple[tuple[str, Any], ...]) -> Any:
    """The same, told what such a job needs: to Ray that takes as long as to send one."""
    return _REMOTE[device].options(**dict(options))


@dataclass
class Running:
    """A job that was handed to Ray, and its last sign of life."""

    job: Job
    signs: Signs
    attempt: int = 1
    away: bool = False  #: its worker does not see the results folder
    content: bytes | None = None  #: of the progress file; None until a worker has begun
    since: float = field(default_factory=time.monotonic)
    phase: str = STARTING  #: the last that its worker said

    def look(self, watch: Watch) -> bool:
        """Pass the job's progress on; whether there was no sign of life for too long since a worker began."""
        try:
            content = self.signs.progress.read_bytes()
        except OSError:
            return False
        now = time.monotonic()
        if content == self.content:
            return now - self.since > 60 * self.job.stall_minutes
        self.content, self.since = content, now
        progress = read_progress(content)
        if progress:
            self.phase = progress[1]
            watch(self.job.name, *progress)
        return False


class Flight:
    """Every job until it has an outcome."""

    def __init__(self, cluster: Cluster, room: Room, mail: Mail | None, work: Work, watch: Watch) -> None:
        self.cluster, self.room, self.mail, self.work, self.watch = cluster, room, mail, work, watch
        self._waiting: deque[Job] = deque()
        self._tries: dict[str, int] = {}
        self._running: dict[ray.ObjectRef, Running] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._looked = 0.0

    def land(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The outcomes of all jobs, in order."""
        self._waiting.extend(jobs)
        while self._waiting or self._running:
            self.cluster.check()
            self._submit()
            self._collect()
            self._look()
        return [self._outcomes[job.name] for job in jobs]

    def _submit(self) -> None:
        most = self.room.most(begun=bool(self._outcomes) or any(given.content for given in self._running.values()))
        while self._waiting and len(self._running) < most:
            job = self._waiting.popleft()
            attempt = self._tries[job.name] = self._tries.get(job.name, 0) + 1
            signs = Signs.of(job)
            signs.remove()
            remote = _with_options(job.device, tuple(self.room.options(job).items()))
            errand = self.mail.errand(job, attempt) if self.mail else None
            try:
                reference = remote.remote(packed(job, self.work), errand)
            except RayError as error:
                raise _lost(job, error) from error
            self._running[reference] = Running(job, signs, attempt)

    def _collect(self) -> None:
        letters = [self.mail.coming] if self.mail else []
        done, _ = ray.wait([*self._running, *letters], timeout=POLL_SECONDS)
        if done:
            done, _ = ray.wait([*self._running, *letters], num_returns=len(self._running) + len(letters), timeout=0)
        if self.mail and self.mail.coming in done:
            self.mail.deliver(self._by_name)
        for reference in done:
            if reference not in self._running:
                continue
            given = self._running.pop(reference)
            outcome = None
            try:
                outcome = self._fetch(reference, given)
            finally:
                if outcome is None or outcome.failed or given.away:  # else its worker has done so
                    given.signs.remove()
            self._end(given.job, outcome)

    @property
    def _by_name(self) -> dict[str, Running]:
        return {given.job.name: given for given in self._running.values()}

    def _end(self, job: Job, outcome: Outcome | None) -> None:
        """``outcome`` is None for a job that is still to be done."""
        if outcome is None:
            self._waiting.appendleft(job)
            return
        self._outcomes[job.name] = replace(outcome, attempts=self._tries[job.name])
        tell_end(self.watch, outcome)

    def _look(self) -> None:
        if time.monotonic() - self._looked < POLL_SECONDS:
            return
        self._looked = time.monotonic()
        for reference, given in list(self._running.items()):
            if given.look(self.watch):
                del self._running[reference]
                self._end(given.job, self._stop(reference, given))

    def _fetch(self, reference: ray.ObjectRef, given: Running) -> Outcome | None:
        """The outcome of a task that is done; None: its process has not taken the job, or died, and another is to.

        A worker that died twice is a failure of its pack.
        """
        try:
            outcome = ray.get(reference)
            if outcome is None:
                self._tries[given.job.name] -= 1
            elif self.mail and given.away:
                self.mail.settle(given, self._by_name)
            return outcome
        except RayTaskError as error:  # first: to Ray it is also of the class of its cause
            if isinstance(error.cause, LorabenchError):
                raise error.cause from None
            raise
        except DEATHS as error:
            self.cluster.check()
            if given.attempt < TRIES:
                return None
            given.look(lambda *_: None)  # its last words may be younger than the last look
            status, message, trace = how_it_died(error, given)
            return self.work.give_up(given.job, status, Failure(phase=given.phase, message=message, traceback=trace))
        except LocalRayletDiedError as error:
            raise self.cluster.lost("raylet (which starts its workers)") from error
        except RayError as error:
            self.cluster.check()
            raise _lost(given.job, error) from error

    def _stop(self, reference: ray.ObjectRef, given: Running) -> Outcome:
        """End a worker that gives no sign of life; a job that ends in that moment has its own outcome."""
        ray.cancel(reference, force=True)
        done, _ = ray.wait([reference], timeout=STOP_SECONDS)
        try:
            if done and (outcome := ray.get(reference)):
                return outcome
        except RayError:
            self.cluster.check()
        finally:
            given.signs.remove()
        return self.work.give_up(given.job, "timeout", stalled(given.job, given.phase))


def _lost(job: Job, error: RayError) -> LorabenchError:
    return LorabenchError(
        f"Ray has lost the job: {type(error).__name__}: {clipped(str(error), 400)}",
        where=job.name,
        remedy="run the same command again: finished trials are kept",
    )


def how_it_died(error: RayError, given: Running) -> tuple[Status, str, str]:
    """Status, words and traceback for a worker that died, was tried again and died again."""
    if isinstance(error, OutOfMemoryError):
        return "oom", "Ray's memory monitor ended the worker, twice: the machine's memory was nearly full", ""
    if isinstance(error, NodeDiedError):
        return "error", "the worker's machine left the Ray cluster, twice", ""
    if given.away:
        return "error", "the worker died, twice, on a machine that does not see the results folder: see its logs", ""
    crash = given.signs.read_crash()
    if crash:
        name = crash.splitlines()[0].removeprefix("Fatal Python error: ")
        return "error", f"the worker crashed, twice: {name}", crash
    return "error", "the worker was killed, twice (SIGKILL, as the kernel does when memory is full, or os._exit)", ""
