"""Fused kernels against the plain operations of transformers: in float32 the same, in bfloat16 no further from it."""

from __future__ import annotations

import helpers
import pytest
import torch
from helpers import random_examples, relative, tiny_model
from torch import Tensor

from harness.engine.adapters import AdapterBank, Layout
from harness.engine.batches import make_batch
from harness.engine.model import fused, packed
from harness.engine.passes import forward_backward
from harness.engine.trunk import Trunk
from harness.method.losses import cross_entropy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")


def given(student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
    return cross_entropy(student, target)


@pytest.fixture
def results(monkeypatch):
    """Gradient of a pass of two trials, and the logits of the base; with fused kernels or without."""

    def compute(family: str, dtype: torch.dtype, *, fuse: bool, gates: str = "silu") -> tuple[Tensor, Tensor]:
        monkeypatch.setitem(helpers.FAMILIES, "qwen3", {"head_dim": 8})
        monkeypatch.setattr(packed, "fuse", fused.fuse if fuse else lambda model: ((), "not asked for"))
        model = packed.PackedModel(tiny_model(family, dtype=dtype, hidden_act=gates).to("cuda"))
        why = "" if gates == "silu" else f"no fused gates for the activation {gates}"
        assert model.why_plain == (why if fuse else "not asked for")
        bank = AdapterBank(Layout(model.slots, 3), [0, 1], [2.0, 0.5], model.device)
        bank.values += 0.05 * torch.randn(bank.values.shape, generator=torch.Generator().manual_seed(0)).to("cuda")
        (batch,) = make_batch([random_examples(8, 0), random_examples(8, 1)], 0, model.device).passes
        trunk = Trunk(model, capture=False)
        _, gradient = forward_backward(trunk, bank.layout, given, batch, bank.values, bank.scaling)
        with torch.no_grad():
            return gradient, model.logits(model.hidden(batch.student.ids).flatten(0, 1)).float()

    return compute


@pytest.mark.parametrize("family", fused.FAMILIES)
def test_in_float32_fused_kernels_are_the_operations(family, results):
    for found, wanted in zip(*(results(family, torch.float32, fuse=fuse) for fuse in (True, False)), strict=True):
        assert relative(found, wanted) < 1e-5


@pytest.mark.parametrize("gates", ["silu", "relu"])
@pytest.mark.parametrize("family", fused.FAMILIES)
def test_in_bfloat16_they_err_no_more(family, gates, results):
    exact = results(family, torch.float32, fuse=False, gates=gates)
    for found, plain, wanted in zip(
        *(results(family, torch.bfloat16, fuse=fuse, gates=gates) for fuse in (True, False)), exact, strict=True
    ):
        assert relative(found, wanted) < 1.2 * relative(plain, wanted)


def test_other_families_keep_their_operations(results):
    model = packed.PackedModel(tiny_model("gemma").to("cuda"))
    assert model.why_plain == "no fused kernels for the family gemma"


def test_kernels_are_swapped_only_while_the_model_runs(results):
    from transformers.models.llama import modeling_llama

    before = dict(vars(modeling_llama))
    results("llama", torch.float32, fuse=True)
    assert vars(modeling_llama) == before
