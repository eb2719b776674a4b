"""What a pack finds in a process that has done others, and what it says of memory: as if it were the first."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import campaigns
import pytest
import torch
from campaigns import TOY

from harness.engine.environment import peak_memory_gib, reset_peak_memory
from harness.executors.hardware import device_here
from harness.executors.local import LocalExecutor
from harness.running import campaign, job
from harness.store.results import read_trials
from harness.store.spectra import Wanted

CPU = torch.device("cpu")
STUDY = TOY | {
    "device": "cuda", "methods": {"lora": {}, "self_distill": {}}, "training": {"examples": 64, "batch": 8},
    "scoring": {"items": 8, "curve": []}, "pack": 1,
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere peaks are those of the process")
def test_a_peak_on_a_cpu_is_that_since_it_was_reset():
    block = torch.ones(100 * 2**20, dtype=torch.float32)
    before = peak_memory_gib(CPU)
    size = block.nbytes / 2**30
    del block
    reset_peak_memory(CPU)
    assert peak_memory_gib(CPU) < before - size / 2
    block = torch.ones(100 * 2**20, dtype=torch.float32)
    assert peak_memory_gib(CPU) > before - size / 2
    del block


def test_nothing_but_the_model_stays_on_a_gpu(monkeypatch):
    freed = []
    monkeypatch.setattr(job, "free_unused", freed.append)
    kept: Any = SimpleNamespace(bench="the model")
    wanted = Wanted("model", "float32", frozenset())
    loaded = job.Loaded(kept, Path("cache"), wanted, _spectra="of the base")  # type: ignore[arg-type]
    monkeypatch.setattr(job, "_kept", {("key",): loaded})
    job.rest(SimpleNamespace(device="cpu"))  # type: ignore[arg-type]
    assert loaded._spectra == "of the base"
    assert not freed
    job.rest(SimpleNamespace(device="cuda"))  # type: ignore[arg-type]
    assert loaded._spectra is None
    assert loaded.bench is kept
    assert freed == [torch.device("cuda")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_pack_on_a_gpu_has_its_own_memory_whatever_came(tmp_path, monkeypatch):
    """Packs of one process, and the same packs each with a model of its own in a process whose caches are empty."""
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    file = campaigns.write_study(tmp_path, STUDY)
    allocated: list[int] = []
    rest = job.rest

    def measured(each: job.Job) -> None:
        rest(each)
        allocated.append(torch.cuda.memory_allocated())

    monkeypatch.setattr("harness.running.worker.rest", measured)

    def peaks(name: str) -> dict[str, float]:
        found = campaigns.load(file, tmp_path / name, device=device_here("cuda"))
        assert campaign.run(found, LocalExecutor(), device_here("cuda"), campaigns.QUIET, {}).complete
        records = read_trials(tmp_path / name).records
        return {record.fingerprint: record.costs.peak_memory_gib or 0.0 for record in records}

    kept = peaks("kept")
    assert max(allocated) - min(allocated) < 2**20, "after every job: the model and the tasks"
    monkeypatch.setattr("harness.running.worker.rest", lambda each: (job.forget(), rest(each)))
    assert peaks("anew") == pytest.approx(kept, rel=0.02)
