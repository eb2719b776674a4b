"""Variants of adapters: which directions are scaled, by how much, and that the control is as large."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from helpers import packed_model
from torch import Tensor

from harness.analysis.intruders import EPSILON, TOP_K
from harness.engine.adapters.files import StoredAdapter
from harness.engine.spectra import Spectra
from harness.posthoc.variants import Variants

CHOSEN = {"first": 1, "all": TOP_K}


@pytest.fixture
def model():
    return packed_model()


def stored(model, rank: int = 2, scaling: float = 2.0, size: float = 1.0) -> StoredAdapter:
    """Random factors that plant large directions in every matrix but the first."""
    generator, tensors = torch.Generator().manual_seed(rank), {}
    for i, slot in enumerate(model.slots):
        for name, shape in (("A", (rank, slot.in_features)), ("B", (slot.out_features, rank))):
            tensors[f"{slot.module}.lora_{name}"] = torch.randn(shape, generator=generator) * size * (i > 0)
    return StoredAdapter(tensors, scaling, "tiny", tuple({slot.projection for slot in model.slots}))


def updates(made: Variants, values: Tensor, rank: int = 2) -> list[Tensor]:
    """dW of every matrix, in fp64."""
    return [b[0] @ a[0] for a, b in made.layout(rank).split(values[None].double())]


@pytest.mark.parametrize("which", CHOSEN)
def test_the_chosen_intruders_are_scaled_and_nothing_else(model, tmp_path, which):
    made, adapter = Variants(model, Spectra(model, tmp_path), which), stored(model)
    directions = made.chosen(adapter)
    trained, mitigated, control = (made.make(adapter, directions, kind, 0.25)
                                   for kind in ("rescored", "mitigated", "control"))  # fmt: skip
    each = [updates(made, variant.values) for variant in (trained, mitigated, control)]
    touched, most = 0, 0
    for (slot, weight), before, after, shrunk in zip(model.weights(), *each, strict=True):
        assert torch.allclose(shrunk, control.shrunk_by * before, rtol=1e-5, atol=1e-6)
        u0 = torch.linalg.svd(weight.double(), full_matrices=False)[0]
        u, d, vh = torch.linalg.svd(weight.double() + before, full_matrices=False)
        found = ((u0.mT @ u[:, :TOP_K]).abs().amax(0) < EPSILON).nonzero().flatten().tolist()[: CHOSEN[which]]
        wanted = weight.double() + before - sum(0.75 * d[j] * torch.outer(u[:, j], vh[j]) for j in found)
        assert torch.allclose(weight.double() + after, wanted, atol=1e-4)
        assert (slot.module in directions) == bool(found)
        touched, most = touched + bool(found), max(most, len(found))
    norms = [sum(float(update.norm() ** 2) for update in part) for part in each]
    assert norms[1] == pytest.approx(norms[2], rel=1e-5), "the control is as large"
    assert 0 < touched == len(directions) < len(model.slots)
    assert most > 1 or which == "first"


@pytest.mark.parametrize("place", range(14))
def test_all_is_what_peft_scales_before_it_cuts_the_rank(model, tmp_path, place):
    """``reduce_intruder_dimension``, in fp64, on a layer whose rank can hold the result."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import intruders

    made, adapter = Variants(model, Spectra(model, tmp_path), "all"), stored(model)
    values = made.make(adapter, made.chosen(adapter), "mitigated", 0.25).values
    slot = model.slots[place]
    weight = {s.module: w for s, w in model.weights()}[slot.module]
    linear = torch.nn.Linear(slot.in_features, slot.out_features, bias=False)
    linear.weight.data = weight.detach().double()
    rank = 2 + TOP_K
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["layer"], lora_dropout=0.0)
    peft = get_peft_model(torch.nn.Sequential(OrderedDict(layer=linear)), config, autocast_adapter_dtype=False)
    layer = peft.base_model.model.layer
    with torch.no_grad():
        for name, part in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
            part["default"].weight.zero_()
            kept = adapter.tensors[f"{slot.module}.{name}"]
            part["default"].weight[: kept.shape[0], : kept.shape[1]] = kept
        intruders.reduce_intruder_dimension(peft, mitigation_lambda=0.25, logging_sink=None)
        wanted = layer.get_delta_weight("intruder_reduced")
    assert (updates(made, values)[place] - wanted).abs().max() <= 1e-6 * max(1.0, float(wanted.abs().max()))


def test_kept_whole_is_the_adapter_itself(model, tmp_path):
    made, adapter = Variants(model, Spectra(model, tmp_path), "all"), stored(model)
    directions = made.chosen(adapter)
    trained, mitigated, control = (made.make(adapter, directions, kind, 1.0)
                                   for kind in ("rescored", "mitigated", "control"))  # fmt: skip
    assert torch.equal(control.values, trained.values)
    for before, after in zip(*(updates(made, v.values) for v in (trained, mitigated)), strict=True):
        assert torch.equal(before, after)


def test_an_adapter_without_intruders_has_none_to_scale(model, tmp_path):
    assert Variants(model, Spectra(model, tmp_path), "all").chosen(stored(model, size=0.0)) == {}


def test_adapters_of_any_rank_are_laid_out_as_they_were_scored(model):
    """Stacked adapters have more ranks than the study says, rsLoRA another scaling."""
    made = Variants(model, SimpleNamespace(), "first")
    for adapter in (stored(model, 2, 0.5), stored(model, 5, 3.0)):
        found = updates(made, made.make(adapter, {}, "rescored", 1.0).values, adapter.rank)
        for slot, update in zip(model.slots, found, strict=True):
            a, b = (adapter.tensors[f"{slot.module}.lora_{name}"].double() for name in "AB")
            assert torch.allclose(update, adapter.scaling * b @ a, atol=1e-4)
