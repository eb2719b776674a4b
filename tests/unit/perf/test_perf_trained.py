"""The adapters that scoring is measured on are trained ones."""

from __future__ import annotations

import torch
from transformers import AutoTokenizer

from harness.data.models import resolve_model
from harness.engine.model.load import load_model
from harness.perf.trained import trained
from harness.study.config import AdapterSettings


def test_adapters_of_different_seeds_have_moved_a_task_long(in_shared_cache):
    path, adapter = resolve_model("tiny-random-llama").path, AdapterSettings(rank=4, alpha=8)
    model = load_model(path, dtype=torch.float32, device=torch.device("cpu"))
    layout = model.layout(adapter.rank)
    found = trained(model, AutoTokenizer.from_pretrained(path), 2, adapter, context=(3, 5), answer=(1, 1))
    assert found.shape == (2, layout.size)
    starts = torch.stack([layout.initial(seed) for seed in range(2)])
    moved = (found - starts).abs()
    # AdamW moves a number that has a steady gradient by about the rate, 5e-4, in each of 64 steps, and none by more.
    assert float(moved.max()) < 64 * 5e-4 * 1.5
    assert float(moved[:, layout.a_size :].mean()) > 5 * 5e-4
    assert not torch.equal(found[0], found[1])
