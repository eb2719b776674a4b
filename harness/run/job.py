"""What an executor hands to a worker, and what that loads before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.engine.environment import use_threads
from harness.engine.model.load import load_model
from harness.scoring.bench import Bench, make_bench
from harness.study.config import Study
from harness.study.plan import Pack


@dataclass(frozen=True)
class Job:
    """One unit of work: a pack, or (``pack`` is None) the base model's scores."""

    study: Study
    pack: Pack | None
    model_path: Path
    folder: Path  #: the study's results
    cache: Path  #: for what outlives the study: base spectra
    device: str
    base_key: str
    write: frozenset[str]  #: fingerprints of the records that are missing; others are left as they are
    extras: Mapping[str, Any]  #: put into every record's ``host`` block

    @property
    def name(self) -> str:
        return self.pack.name if self.pack else "base"

    @property
    def threads(self) -> int:
        return self.study.threads

    @property
    def stall_minutes(self) -> float:
        return self.study.stall_minutes


def set_up(job: Job) -> Bench:
    """Load the model, with room for what the job's pack adapts, and the tasks of its study, on the job's device."""
    study = job.study
    use_threads(study.threads)
    device = torch.device(job.device)
    # Trials of one pack adapt the same projections, and what they leave alone is left unwrapped.
    adapter = job.pack.adapter if job.pack else study.adapter
    model = load_model(job.model_path, dtype=getattr(torch, study.dtype), device=device, targets=adapter.targets)
    tasks = study.tasks if job.pack is None else tuple(dict.fromkeys(t for row in job.pack.rows for t in row.stream))
    return make_bench(study, (*tasks, *study.probes), model, job.model_path, adapter.rank)
