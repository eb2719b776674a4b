"""Rows with branches without a mask: the same hidden states, and only where the kernel that is told of them fits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import helpers
import pytest
import torch
from helpers import relative, tiny_model
from torch import Tensor
from torch.nn import functional as F

from harness.engine.model import attention, joining
from harness.engine.model.attention import tree_mask
from harness.engine.model.family import check
from harness.engine.model.fused import FAMILIES
from harness.engine.model.packed import ALL_LINEAR, PackedModel

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="our own attention runs on a GPU")
#: Two rows of 12 tokens, of each of two trials: two answers, the first of which branches again; one answer and padding.
LAST = torch.tensor([[12] * 4 + [9] * 2 + [7] + [9] * 2 + [12] * 3, [12] * 2 + [5] * 3 + [8] * 3 + [12] * 4])
POSITIONS = torch.tensor([[*range(7), 6, 7, 4, 5, 6], [*range(5), 2, 3, 4, *range(4)]])
IDS = torch.arange(48).view(4, 12) * 7 % 89 + 3


@pytest.fixture(autouse=True)
def _qwen3(monkeypatch):
    monkeypatch.setitem(helpers.FAMILIES, "qwen3", {})


class Kernels(SimpleNamespace):
    """What the kernel computes, in torch; which ``last`` it was given is kept."""

    def __init__(self) -> None:
        super().__init__(told=[])

    def tree_attention(self, query: Tensor, key: Tensor, value: Tensor, last: Tensor, scale: float) -> Tensor:
        self.told.append(last)
        mask = tree_mask(last).repeat(len(query) // len(last), 1, 1, 1)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True)


@pytest.fixture
def kernels(monkeypatch) -> Kernels:
    """On a CPU, as if they ran there."""
    made = Kernels()
    use(made, monkeypatch)
    return made


def use(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (attention, joining):
        monkeypatch.setattr(module, "kernels_for", lambda device: kernels)


def module_of(family: str, dtype: torch.dtype, **changes: Any) -> Any:
    return tiny_model(family, dtype=dtype, **{"sliding_window": None, "head_dim": 16, "hidden_size": 64, **changes})


def model_of(family: str, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> PackedModel:
    return PackedModel(module_of(family, dtype, **changes))


def hidden(model: PackedModel) -> Tensor:
    return model.hidden(*(x.to(model.device) for x in (IDS, LAST, POSITIONS.repeat(2, 1))))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_mask_hidden_states_are_the_same(family, kernels, monkeypatch):
    exact = hidden(model_of(family, torch.float32))
    assert not kernels.told
    model = model_of(family)
    assert model.unmasked
    behind_a_mask = model_of(family)
    behind_a_mask.unmasked = False
    wanted = hidden(behind_a_mask)
    kernels.told.clear()
    monkeypatch.setattr(attention, "tree_mask", None)  # nobody makes one
    found = hidden(model)
    layers = model.module.config.num_hidden_layers
    assert [last.tolist() for last in kernels.told] == [LAST.tolist()] * layers
    assert relative(found.float(), exact) < 1.2 * relative(wanted.float(), exact)


@torch.no_grad()
def test_rows_without_branches_are_causal(kernels):
    model = model_of("llama")
    kernels.told.clear()
    model.hidden(IDS)
    assert not kernels.told


def test_with_a_gradient_there_is_a_mask(kernels):
    model = model_of("llama")
    kernels.told.clear()
    hidden(model)
    assert not kernels.told


def test_models_that_do_not_fit_keep_their_mask(kernels):
    assert not model_of("llama", torch.float32).unmasked, "the kernel is one of 16 bits"
    assert not model_of("llama", head_dim=8).unmasked, "so small a head"
    assert not model_of("mistral", sliding_window=4).unmasked, "a window"
    assert not model_of("gemma").unmasked, "another family"
    assert not PackedModel(module_of("llama", torch.bfloat16), ()).unmasked, "attention is its own"
    assert not kernels.told


def test_a_model_whose_answers_see_each_other_keeps_its_mask(monkeypatch):
    class Blind(Kernels):
        def tree_attention(self, query: Tensor, key: Tensor, value: Tensor, last: Tensor, scale: float) -> Tensor:
            return super().tree_attention(query, key, value, torch.full_like(last, last.shape[1]), scale)

    class Broken(Kernels):
        def tree_attention(self, *given: Any) -> Tensor:
            raise RuntimeError("out of shared memory")

    for kernels in (Blind(), Broken()):
        use(kernels, monkeypatch)
        assert not model_of("llama").unmasked


def test_a_family_is_tried_in_float32_behind_a_mask(kernels):
    plain = module_of("llama", torch.bfloat16)
    found = check(plain, ALL_LINEAR)
    assert (found.branches, found.refused) == (True, "")
    assert {last.shape for last in kernels.told} == {(1, 22)}, "only in the kernel's own trial"


def test_on_a_cpu_there_is_a_mask():
    assert not model_of("llama").unmasked


@on_a_gpu
@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu_it_errs_no_more_than_behind_a_mask(family, monkeypatch):
    exact, model, behind_a_mask = (
        PackedModel(module_of(family, torch.bfloat16).to("cuda", dtype))
        for dtype in (torch.float32, torch.bfloat16, torch.bfloat16)
    )
    assert model.unmasked
    assert not exact.unmasked
    behind_a_mask.unmasked = False
    wanted, plain = hidden(exact), hidden(behind_a_mask)
    monkeypatch.setattr(attention, "tree_mask", None)
    assert relative(hidden(model).float(), wanted) < 1.2 * relative(plain.float(), wanted)
