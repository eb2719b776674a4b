"""Work for Ray's workers, which import it: it tells of its worker, or does something to it."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from harness.executors.interface import Job, Outcome, Report, Work
from harness.store.records import Failure, Status


@dataclass(frozen=True)
class Small:
    """A job of a second."""

    name: str = "small"
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp()))
    device: str = "cpu"
    threads: int = 1
    stall_minutes: float = 5


def look(job: Job, report: Report) -> Outcome:
    """The outcome's message is JSON of the cluster as the worker sees it."""
    import ray

    report(1, "looking")
    seen = {
        "gcs": ray.get_runtime_context().gcs_address, "resources": ray.cluster_resources(), "nodes": len(ray.nodes()),
        "auth": {key: value for key, value in os.environ.items() if "AUTH" in key},
    }  # fmt: skip
    return Outcome(job.name, message=json.dumps(seen))


def give_up(job: Job, status: Status, failure: Failure) -> Outcome:
    return Outcome(job.name, status, failure.message)


LOOK = Work(look, give_up)


def tell(job: Job, report: Report) -> Outcome:
    """The outcome's message is JSON of the process, how many jobs it has had, and its GPUs; some jobs fail, by name."""
    import ray

    global _done
    _done += 1
    report(1, "telling")
    seen = {"process": os.getpid(), "jobs": _done, "gpus": ray.get_gpu_ids()}
    return Outcome(job.name, "oom" if "fails" in job.name else None, json.dumps(seen))


_done = 0  #: jobs that this process has told of

TELL = Work(tell, give_up)
