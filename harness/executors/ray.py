"""The jobs on Ray's workers; the only module that imports ray.

A job is a Ray task: a fresh process on a GPU, which costs a few seconds a pack and gives clean memory figures and a
clean recovery.  Ray holds no state of ours: result files are the only truth, and progress comes through small files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback only; a cluster keeps its token

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from harness.engine.job import Job
from harness.engine.worker import Outcome, execute, failed
from harness.errors import InputError, LorabenchError
from harness.executors import Watch

POLL_SECONDS = 0.3
EXTRA_IN_FLIGHT = 2  # submitted beyond what fits, so that a free slot never waits for the driver


def _execute(job: Job) -> Outcome:
    """The job, with its progress in a file that the driver reads."""
    path = _progress_path(job)
    path.parent.mkdir(parents=True, exist_ok=True)

    def report(units: float, what: str) -> None:
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps([units, what]))
        temporary.replace(path)

    try:
        return execute(job, report)
    finally:
        path.unlink(missing_ok=True)


#: Infrastructure errors are tried again once; a Python exception never is.  On a GPU a process does one pack
#: (``max_calls`` works only here, not in ``options``); on a CPU it is kept, which saves the imports.
_ON_CPU = ray.remote(max_retries=1)(_execute)
_ON_GPU = ray.remote(max_retries=1, max_calls=1)(_execute)


def _progress_path(job: Job) -> Path:
    return job.folder / "running" / f"{job.name}.progress"


class RayExecutor:
    def __init__(self) -> None:
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", namespace="lorabench")

    def device(self, wanted: str) -> str:
        gpus = ray.cluster_resources().get("GPU", 0)
        if wanted == "cuda" and not gpus:
            raise InputError(
                "the study asks for a GPU, and the Ray cluster has none",
                where="study:device",
                remedy="set device: any, or join a machine with a GPU (ray start --address=...)",
            )
        return "cuda" if gpus and wanted != "cpu" else "cpu"

    def run(self, jobs: Sequence[Job], watch: Watch) -> list[Outcome]:
        if not jobs:
            return []
        needs = self._needs(jobs[0])
        slots = min(int(ray.cluster_resources().get(name, 0) // amount) for name, amount in needs.items())
        remote = (_ON_GPU if "GPU" in needs else _ON_CPU).options(num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0))
        waiting, running, outcomes = list(jobs), {}, {}
        while waiting or running:
            while waiting and len(running) < slots + EXTRA_IN_FLIGHT:
                job = waiting.pop(0)
                running[remote.remote(job)] = job
            done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for reference in done:
                job = running.pop(reference)
                outcomes[job.name] = _fetch(reference, job)
            for job in running.values():
                _read_progress(job, watch)
        return [outcomes[job.name] for job in jobs]

    def _needs(self, job: Job) -> dict[str, float]:
        """Resources of one job; refused before anything is submitted, since Ray would wait for them for ever."""
        needs: dict[str, float] = {"CPU": job.study.threads}
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

    def close(self) -> None:
        ray.shutdown()


def describe() -> str:
    """The cluster in a line, for the check-up."""
    resources = ray.cluster_resources()
    return f"starts: {resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU, {len(ray.nodes())} node(s)"


def _fetch(reference: ray.ObjectRef, job: Job) -> Outcome:
    try:
        return ray.get(reference)
    except LorabenchError:
        raise
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, LorabenchError):
            raise cause from error
        raise
    except (WorkerCrashedError, NodeDiedError, OutOfMemoryError) as error:
        if job.pack is not None:  # failure is data; the other packs go on
            status = "oom" if isinstance(error, OutOfMemoryError) else "error"
            return failed(job, status, "in the worker", f"the worker died twice ({type(error).__name__})", "")
        raise LorabenchError(
            f"the worker of {job.name} died twice (killed, or out of memory)",
            where=str(job.folder),
            remedy="free memory or lower pack: in the study, then run again: finished trials are kept",
        ) from error


def _read_progress(job: Job, watch: Watch) -> None:
    try:
        units, what = json.loads(_progress_path(job).read_text())
    except (OSError, ValueError):
        return
    watch(job.name, units, what)
