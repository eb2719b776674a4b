"""Layers that add and norm in one kernel are those of transformers; here torch stands in the kernel's place."""

from __future__ import annotations

import weakref
from collections import Counter
from types import SimpleNamespace
from typing import Any

import helpers
import pytest
import torch
from helpers import CPU, packed_model, random_examples, relative, tiny_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from harness.engine.adapters import AdapterBank, Layout
from harness.engine.batches import Joined, make_batch
from harness.engine.model import attention
from harness.engine.model.fused import FAMILIES, _use_norms
from harness.engine.model.gated import use_gates
from harness.engine.model.packed import PackedModel
from harness.engine.model.precision import in_three
from harness.engine.model.residuals import use_sums
from harness.engine.passes import forward_backward
from harness.engine.trunk import Trunk
from harness.method.losses import cross_entropy

IDS = torch.arange(3, 21).view(2, 9)


class Written:
    """What the kernels compute, in torch; how often each was asked, and what the last sum was normed to."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.last: Any = None

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        self.asked["rms_norm"] += 1
        return F.rms_norm(x, weight.shape, weight, eps)

    def add_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        self.asked["add_norm"] += 1
        total = x + residual
        normed = F.rms_norm(total, weight.shape, weight, eps)
        self.last = weakref.ref(normed)
        return normed, total

    def down_states(self, x: Tensor, a: Tensor) -> Tensor:
        return x.float() @ a.mT

    def add_updated_norm(
        self, y: Tensor, down: Tensor, b: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        self.asked["add_updated_norm"] += 1
        return self.add_norm((y + down @ b.mT).to(y.dtype), residual, weight, eps)

    def down_in_three(self, x: Tensor, a: Tensor) -> Tensor:
        return in_three(x.float() @ a.mT, 2)

    def gated_in_three(self, gate: Tensor, up: Tensor, down: Tensor, b_gate: Tensor, b_up: Tensor) -> Tensor:
        self.asked["gated_in_three"] += 1
        of_gate, of_up = down.float().sum(2).chunk(2, 2)
        opening, passed = (
            (y + of @ b.float().sum(1)).to(y.dtype) for y, of, b in ((gate, of_gate, b_gate), (up, of_up, b_up))
        )
        return F.silu(opening) * passed


def fused_model(family: str) -> tuple[PackedModel, Written]:
    model, kernels = packed_model(family, num_hidden_layers=3), Written()
    _use_norms(model.module, kernels)  # pyright: ignore[reportArgumentType]  # in place of a module
    use_sums(model.module, kernels)  # pyright: ignore[reportArgumentType]  # the same
    return model, kernels


@pytest.fixture(params=FAMILIES)
def models(request, monkeypatch) -> tuple[PackedModel, PackedModel, Counter[str]]:
    """(One with the layers written here, the same with its own, calls of kernels of the first)."""
    monkeypatch.setitem(helpers.FAMILIES, "qwen3", {"head_dim": 8})
    model, kernels = fused_model(request.param)
    return model, packed_model(request.param, num_hidden_layers=3), kernels.asked


def norms_of_heads(model: PackedModel) -> int:
    return sum(name.endswith(("q_norm", "k_norm")) for name, _ in model.module.named_modules())


def given(student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
    return cross_entropy(student, target)


def test_the_gradient_is_that_of_its_own_layers(models):
    gradients = []
    for model in models[:2]:
        bank = AdapterBank(Layout(model.slots, 3), [0, 1], [2.0, 0.5], CPU)
        bank.values += 0.05 * torch.randn(bank.values.shape, generator=torch.Generator().manual_seed(0))
        (batch,) = make_batch([random_examples(8, 0), random_examples(8, 1)], 0, CPU).passes
        gradients.append(forward_backward(Trunk(model), bank.layout, given, batch, bank.values, bank.scaling)[1])
    assert relative(*gradients) < 1e-5


@torch.no_grad()
def test_every_norm_but_the_first_is_made_with_a_sum(models):
    model, plain, asked = models
    assert relative(model.hidden(IDS), plain.hidden(IDS)) < 1e-6
    assert (asked["add_norm"], asked["rms_norm"] - norms_of_heads(model)) == (6, 1)


@torch.no_grad()
@pytest.mark.parametrize("rank", [3, 17])
def test_updates_in_float32_are_added_with_the_sums(models, rank):
    """But for the last feed-forward layer, and where ranks are many."""
    fused, plain, asked = models
    at, layout = torch.tensor([2, 3, 11, 17]), Layout(plain.slots, rank)
    values = 0.05 * torch.randn(2, layout.size, generator=torch.Generator().manual_seed(0))
    for model in (fused, plain):
        model.module.bfloat16()
    for read in (lambda model: model.hidden(IDS), lambda model: model.hidden_at(at, IDS)):
        asked.clear()
        states = []
        for model in (fused, plain):
            with model.adapted(layout, values, torch.tensor([2.0, 0.5]), precise=True):
                states.append(read(model).float())
        assert relative(*states) < 2.0**-7
        assert asked["add_norm"] == 6
        assert asked["add_updated_norm"] == (5 if rank == 3 else 0)
        assert not any(linear.defers or linear.states is not None for linear in fused._linears)


@torch.no_grad()
@pytest.mark.parametrize("rank", [3, 17])
@pytest.mark.parametrize("family", FAMILIES)
def test_gates_and_sums_infer_in_float32_together(family, rank, monkeypatch):
    monkeypatch.setitem(helpers.FAMILIES, "qwen3", {"head_dim": 8})
    (fused, kernels), plain = fused_model(family), packed_model(family, num_hidden_layers=3)
    use_gates(fused.module, kernels)  # pyright: ignore[reportArgumentType]  # in place of a module
    layout, at = Layout(plain.slots, rank), torch.tensor([2, 3, 11, 17])
    values = 0.05 * torch.randn(2, layout.size, generator=torch.Generator().manual_seed(0))
    for read in (lambda model: model.hidden(IDS), lambda model: model.hidden_at(at, IDS)):
        kernels.asked.clear()
        states = []
        for model in (fused, plain):
            model.module.bfloat16()
            with model.adapted(layout, values, torch.tensor([2.0, 0.5]), precise=True):
                states.append(read(model).float())
        assert relative(*states) < 2.0**-7
        assert (kernels.asked["gated_in_three"], kernels.asked["add_updated_norm"]) == (3, 5 if rank == 3 else 0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["self_attn.o_proj", "self_attn"])
def test_a_hook_sees_the_update_of_a_projection(models, name):
    fused, plain, asked = models
    layout, seen = Layout(plain.slots, 3), []

    def see(module: nn.Module, given: object, out: Any) -> None:
        seen.append((out if isinstance(out, Tensor) else out[0]).float())

    for model in (fused, plain):
        model.module.bfloat16()
        model.decoder.layers[0].get_submodule(name).register_forward_hook(see)
        values = 0.05 * torch.randn(2, layout.size, generator=torch.Generator().manual_seed(0))
        with model.adapted(layout, values, torch.tensor([2.0, 0.5]), precise=True):
            model.hidden(IDS)
    assert relative(*seen) < 2.0**-7
    assert asked["add_updated_norm"] == 4


@torch.no_grad()
def test_the_last_layer_computes_what_is_read(models):
    model, plain, _ = models
    at = torch.tensor([2, 3, 11, 17])
    assert relative(model.hidden_at(at, IDS), plain.hidden_at(at, IDS)) < 1e-6
    assert relative(model.hidden(IDS), plain.hidden(IDS)) < 1e-6


@torch.no_grad()
def test_a_cache_is_filled_and_read(models):
    cache, plain_cache, mask = DynamicCache(), DynamicCache(), torch.ones_like(IDS)
    for part in (slice(0, 5), slice(5, 9)):
        found, wanted = (
            model.decode(IDS[:, part], mask[:, : part.stop], torch.arange(9)[None, part], into)
            for model, into in ((models[0], cache), (models[1], plain_cache))
        )
        assert relative(found, wanted) < 1e-6
    assert cache.get_seq_length() == 9


@torch.no_grad()
def test_attention_is_told_which_rows_are_joined(monkeypatch):
    told = []

    def row_attention(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, *_: Any) -> Tensor:
        told.append(starts)
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

    monkeypatch.setattr(attention, "kernels_for", lambda device: SimpleNamespace(row_attention=row_attention))
    joined = Joined(torch.tensor([[0, 9], [0, 9]]), torch.arange(9).expand(2, 9), 9)
    plain = packed_model("llama", num_hidden_layers=3)
    assert relative(fused_model("llama")[0].hidden(IDS, joined=joined), plain.hidden(IDS, joined=joined)) < 1e-6
    assert [starts is joined.starts for starts in told] == [True] * 6


@torch.no_grad()
def test_what_a_hook_returns_is_normed_anew(models):
    for model in models[:2]:
        model.decoder.layers[0].register_forward_hook(lambda layer, given, out: 2 * out + 1)
        model.decoder.layers[1].post_attention_layernorm.register_forward_hook(lambda norm, given, out: out + 1)
    assert relative(models[0].hidden(IDS), models[1].hidden(IDS)) < 1e-6


def test_a_pass_that_stops_leaves_nothing():
    model, kernels = fused_model("llama")

    def stop(*_: object) -> None:
        assert kernels.last() is not None
        raise InterruptedError

    layers: Any = model.decoder.layers
    hook = layers[1].register_forward_pre_hook(stop)
    with pytest.raises(InterruptedError) as caught:
        model.hidden(IDS)
    del caught
    assert kernels.last() is None
    hook.remove()
    with torch.no_grad():
        assert relative(model.hidden(IDS), packed_model("llama", num_hidden_layers=3).hidden(IDS)) < 1e-6


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_layers_that_are_not_known_keep_their_forward(family):
    model: Any = tiny_model(family)
    if family == "llama":
        model.model.layers[1].another = nn.Identity()
    use_sums(model, None)  # pyright: ignore[reportArgumentType]  # asking it for anything raises
    model(IDS)
    assert not any("forward" in vars(module) for module in model.modules())
