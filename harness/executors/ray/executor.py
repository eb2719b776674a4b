"""The driver's side of the jobs on Ray's workers.

A job is a Ray task.  Its process goes on to the next one, with what it has loaded, unless a job has failed in it or
the next is for another GPU (:mod:`harness.executors.ray.staying`).  Ray holds no state of ours: result files are the
only truth, and progress comes through small files.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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

from harness.errors import InputError, LorabenchError, clipped
from harness.executors.hardware import device_here
from harness.executors.interface import STARTING, Job, Outcome, Watch, Work, stalled, tell_end
from harness.executors.ray import nodes
from harness.executors.ray.cluster import Cluster
from harness.executors.ray.staying import NEVER, can_leave
from harness.executors.ray.task import Signs, answer, carry_out, read_progress
from harness.store.records import Failure, Status
from harness.study.config import ResourceSettings
from harness.study.stack import Device

POLL_SECONDS = 0.3
STOP_SECONDS = 30.0  #: for a stalled worker to be gone
EXTRA_IN_FLIGHT = 2  # submitted beyond what fits, so that a free slot never waits for the driver


def _remote(device: str, stays: bool) -> Any:
    """How Ray runs a job for this device; ``stays``: a process may go on to the next and leaves when it says so.

    Infrastructure errors are tried again once; a Python exception never is.  ``max_calls`` is fixed here: ``options``
    does not take it.  A process that can't leave does one pack on a GPU, and any number on a CPU (0).
    """
    calls = NEVER if stays else 1 if device == "cuda" else 0
    return ray.remote(max_retries=1, max_calls=calls)(carry_out)


_REMOTE = {device: _remote(device, can_leave()) for device in ("cpu", "cuda")}


@dataclass
class Running:
    """A job that was handed to Ray, and its last sign of life."""

    job: Job
    signs: Signs
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


class RayExecutor:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._places: dict[str, nodes.Place] = {}  #: by kind of device, once a study has asked for it

    def device(self, wanted: str, resources: ResourceSettings | None = None) -> Device:
        """What the nodes have that will run the jobs; this process may have no GPU, or another."""
        self.cluster.check()
        resources, there = resources or ResourceSettings(), nodes.living()
        cards = nodes.with_gpus(there, resources) if wanted != "cpu" else []
        if not cards and (wanted == "cuda" or (wanted == "any" and resources.accelerator_type)):
            raise _no_gpu(there, resources)
        kind = "cuda" if cards else "cpu"
        if self.cluster.ours:
            return device_here(kind)
        self._places[kind] = nodes.look_around(cards or [node for node in there if node.has.get("CPU", 0)], kind)
        return self._places[kind].device

    def ask(self, question: bytes, kind: str) -> Any:
        """The answer to a pickled question, of a node that jobs for this kind of device run on."""
        self.cluster.check()
        if kind not in self._places:
            self.device(kind)
        try:
            return nodes.ask(self._places[kind], answer, question)
        except RayTaskError as error:
            if isinstance(error.cause, LorabenchError):
                raise error.cause from None
            raise

    def run(self, jobs: Sequence[Job], work: Work, watch: Watch) -> list[Outcome]:
        if not jobs:
            return []
        self.cluster.check()
        needs = self._needs(jobs[0])
        place = self._places.get(jobs[0].device)
        slots = min(int(ray.cluster_resources().get(name, 0) // amount) for name, amount in needs.items())
        remote = _REMOTE[jobs[0].device].options(num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0),
            accelerator_type=place.accelerator or None if place else None)  # fmt: skip
        waiting, running, outcomes = list(jobs), {}, {}
        while waiting or running:
            self.cluster.check()
            while waiting and len(running) < slots + EXTRA_IN_FLIGHT:
                job = waiting.pop(0)
                signs = Signs.of(job)
                signs.remove()
                running[remote.remote(job, work)] = Running(job, signs)
            done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for reference in done:
                given = running.pop(reference)
                outcome = self._fetch(reference, given, work)
                if outcome is None:
                    waiting.insert(0, given.job)
                else:
                    outcomes[given.job.name] = outcome
                    tell_end(watch, outcome)
            for reference, given in list(running.items()):
                if given.look(watch):
                    del running[reference]
                    outcomes[given.job.name] = outcome = self._stop(reference, given, work)
                    tell_end(watch, outcome)
        return [outcomes[job.name] for job in jobs]

    def _needs(self, job: Job) -> dict[str, float]:
        """Resources of one job; refused before anything is submitted, since Ray would wait for them for ever."""
        needs: dict[str, float] = {"CPU": job.threads}
        if job.device == "cuda":
            needs["GPU"] = 1
        largest = {name: max((node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"]), default=0)
                   for name in needs}  # fmt: skip
        for name, amount in needs.items():
            if amount > largest[name]:
                raise InputError(
                    f"a pack needs {amount:g} {name}, and no node of the Ray cluster has more than {largest[name]:g}",
                    where="study:threads" if name == "CPU" else "study:device",
                    remedy="lower threads: in the study (it changes the numbers' last bits), or use a larger machine",
                )
        return needs

    def _fetch(self, reference: ray.ObjectRef, given: Running, work: Work) -> Outcome | None:
        """The outcome of a task that is done; None: its process has not taken the job, and another is to.

        A worker that died twice is a failure of its pack.
        """
        try:
            return ray.get(reference)
        except RayTaskError as error:  # first: to Ray it is also of the class of its cause
            if isinstance(error.cause, LorabenchError):
                raise error.cause from None
            raise
        except (WorkerCrashedError, NodeDiedError, OutOfMemoryError, TaskCancelledError) as error:
            self.cluster.check()
            given.look(lambda *_: None)  # its last words may be younger than the last look
            status, message, trace = _how_it_died(error, given.signs)
            return work.give_up(given.job, status, Failure(phase=given.phase, message=message, traceback=trace))
        except LocalRayletDiedError as error:
            raise self.cluster.lost("raylet (which starts its workers)") from error
        except RayError as error:
            self.cluster.check()
            raise LorabenchError(
                f"Ray has lost the job: {type(error).__name__}: {clipped(str(error), 400)}",
                where=given.job.name,
                remedy="run the same command again: finished trials are kept",
            ) from error
        finally:
            given.signs.remove()

    def _stop(self, reference: ray.ObjectRef, given: Running, work: Work) -> Outcome:
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
        return work.give_up(given.job, "timeout", stalled(given.job, given.phase))

    def describe(self) -> str:
        resources = ray.cluster_resources()
        return f"starts: {resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU, {len(ray.nodes())} node(s)"

    def close(self) -> None:
        self.cluster.close()


def _no_gpu(there: Sequence[nodes.Node], resources: ResourceSettings) -> InputError:
    wanted, kinds = resources.accelerator_type, sorted({node.accelerator for node in there if node.accelerator})
    if wanted is None or not kinds:
        return InputError(
            f"the study asks for a GPU{f' ({wanted})' if wanted else ''}, and the Ray cluster has none",
            where="study:device",
            remedy="set device: any, or join a machine with a GPU (ray start --address=...)",
        )
    return InputError(
        f"the study asks for a GPU of the kind {wanted}, and the Ray cluster has {', '.join(kinds)}",
        where="study:resources.accelerator_type",
        remedy="name one that is there, or join a machine that has it (ray start --address=...)",
    )


def _how_it_died(error: RayError, signs: Signs) -> tuple[Status, str, str]:
    """Status, words and traceback for a worker that died, was tried again and died again."""
    if isinstance(error, OutOfMemoryError):
        return "oom", "Ray's memory monitor ended the worker, twice: the machine's memory was nearly full", ""
    if isinstance(error, NodeDiedError):
        return "error", "the worker's machine left the Ray cluster, twice", ""
    crash = signs.read_crash()
    if crash:
        name = crash.splitlines()[0].removeprefix("Fatal Python error: ")
        return "error", f"the worker crashed, twice: {name}", crash
    return "error", "the worker was killed, twice (SIGKILL, as the kernel does when memory is full, or os._exit)", ""
