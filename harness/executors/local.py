"""The jobs one after the other, in this process; Ray is not imported."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.engine.job import Job
from harness.engine.worker import Outcome, execute
from harness.errors import InputError
from harness.executors import Watch


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
        return [execute(job, lambda units, what, job=job: watch(job.name, units, what)) for job in jobs]

    def close(self) -> None:
        pass
