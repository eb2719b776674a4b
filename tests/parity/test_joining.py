"""Rows behind each other without padding: the same gradients as rows in a padded batch, on a GPU."""

from __future__ import annotations

from typing import Any

import helpers
import pytest
import torch
from helpers import random_examples, relative, tiny_model
from torch import Tensor

from harness.engine.adapters import AdapterBank, Layout
from harness.engine.batches import make_batch
from harness.engine.model import joining
from harness.engine.model.fused import FAMILIES
from harness.engine.model.packed import PackedModel
from harness.engine.passes import forward_backward
from harness.engine.trunk import EAGER_PASSES, Trunk
from harness.method.losses import cross_entropy

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="rows are joined on a GPU")
HEADS = {"hidden_size": 64, "head_dim": 16}


@pytest.fixture(autouse=True)
def _qwen3(monkeypatch):
    monkeypatch.setitem(helpers.FAMILIES, "qwen3", {})


def loss(student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
    return cross_entropy(student, target)


def model_of(family: str, dtype: torch.dtype, device: str = "cuda", **changes: Any) -> PackedModel:
    module: Any = tiny_model(family, dtype=dtype, **{"sliding_window": None, **HEADS, **changes})
    return PackedModel(module.to(device))


def gradient(model: PackedModel, *, join: int, capture: bool) -> Tensor:
    bank = AdapterBank(Layout(model.slots, 3), [0, 1], [2.0, 0.5], model.device)
    bank.values += 0.05 * torch.randn(bank.values.shape, generator=torch.Generator().manual_seed(0)).to("cuda")
    trunk, found = Trunk(model, capture=capture), []
    for seed in (0, 5, 7, 0) * (EAGER_PASSES + 1):
        rows = [random_examples(8, seed, longest=16), random_examples(8, seed + 1, longest=16)]
        (batch,) = make_batch(rows, 0, model.device, join=join).passes
        assert (batch.student.joined is not None) == (join > 0)
        found.append(forward_backward(trunk, bank.layout, loss, batch, bank.values, bank.scaling)[1])
    assert bool(trunk._graphs) == capture
    assert not trunk.failed
    assert relative(found[-1], found[0]) < 2.0**-10, "a graph reads what it is given"
    return found[0]


@on_a_gpu
@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_joined_rows_err_no_more_than_padded_ones(family, capture):
    model = model_of(family, torch.bfloat16)
    assert model.joins == joining.LONGEST
    wide: Any = tiny_model(family, dtype=torch.bfloat16, sliding_window=None, **HEADS)  # the same weights
    exact = gradient(PackedModel(wide.to("cuda", torch.float32)), join=0, capture=False)
    padded = gradient(model, join=0, capture=capture)
    assert relative(gradient(model, join=model.joins, capture=capture), exact) < 1.2 * relative(padded, exact)


@on_a_gpu
def test_models_that_do_not_fit_keep_their_padding():
    assert model_of("llama", torch.float32).joins == 0, "the kernel is one of 16 bits"
    assert model_of("llama", torch.bfloat16, head_dim=8).joins == 0, "so small a head"
    assert model_of("mistral", torch.bfloat16, sliding_window=4).joins == 0, "a window"
    assert model_of("gemma", torch.bfloat16).joins == 0, "another family"


@on_a_gpu
def test_a_model_whose_rows_see_each_other_keeps_its_padding(monkeypatch):
    from harness.engine.model import kernels

    def blind(query, key, value, starts, longest, scale):
        whole = torch.stack([starts[:, 0], starts[:, -1]], 1)
        return kernels.row_attention(query, key, value, whole, longest, scale)

    class Blind:
        row_attention = staticmethod(blind)

    from harness.engine.model import attention

    monkeypatch.setattr(attention, "kernels_for", lambda device: Blind)
    assert model_of("llama", torch.bfloat16).joins == 0
