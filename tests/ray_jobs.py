"""Work for Ray's workers, which import it: it tells of its worker, or does something to it."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
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
    seconds: float = 1
    card: float = 1

    @property
    def cpus(self) -> float:
        return self.threads

    @property
    def gpus(self) -> float:
        return self.card if self.device == "cuda" else 0


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


def die_once(job: Job, report: Report) -> Outcome:
    """Some jobs kill their worker, by name, the first time."""
    mark = job.folder / "died"
    if "dies" in job.name and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(job.name)


DIE_ONCE = Work(die_once, give_up)


def nap(job: Small, report: Report) -> Outcome:
    """Sleep; the outcome's message is JSON of the node, and when it began and ended."""
    import ray

    began = time.time()
    report(1, "sleeping")
    time.sleep(job.seconds)
    seen = {"node": ray.get_runtime_context().get_node_id(), "began": began, "ended": time.time()}
    return Outcome(job.name, message=json.dumps(seen))


NAP = Work(nap, give_up)


def leave(job: Job, report: Report) -> Outcome:
    """Files as a pack leaves them, and one of 300 KB; what the job has found of its folder is the outcome's message."""
    found = sorted(path.name for path in job.folder.rglob("*") if path.suffix in (".json", ".safetensors"))
    report(1, "writing")
    for name in ("adapters/abc.safetensors", "adapters/abc-task1.safetensors", f"running/{job.name}.safetensors"):
        path = job.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(CONTENT)
    time.sleep(1.2)
    report(2, "written")
    (job.folder / "logs").mkdir(exist_ok=True)
    (job.folder / "logs" / f"{job.name}.log").write_text("done\n")
    time.sleep(1)
    if "keeps" not in job.name:
        (job.folder / "running" / f"{job.name}.safetensors").unlink()
    return Outcome(job.name, message=json.dumps(found))


CONTENT = bytes(range(256)) * 1200

LEAVE = Work(leave, give_up)
