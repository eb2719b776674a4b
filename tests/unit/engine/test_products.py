"""Products of bfloat16 through float32, against float64 and against those of bfloat16 itself."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny_model
from torch import Tensor
from torch.nn import functional as F

from harness.engine.model import products
from harness.engine.model.attention import attention
from harness.engine.model.linear import Change, PackedLinear
from harness.engine.model.packed import PackedModel, make_bank

#: Half the distance of neighbouring numbers, as a share of a number.
ROUNDING = 2.0**-8


@pytest.fixture(params=[False, True], ids=["through float32", "in bfloat16"])
def fast(request, monkeypatch) -> bool:
    """Whether this CPU is taken to have instructions for bfloat16."""
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: request.param)
    return request.param


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_a_product_is_rounded_once(fast):
    x, weight, bias = drawn(3, 7, 64), drawn(40, 64, seed=1), drawn(40, seed=2)
    exact = F.linear(x.double(), weight.double(), bias.double())
    found = products.linear(x, weight, bias)
    assert found.dtype is torch.bfloat16
    # sums in float32 add at most 64 roundings of 2^-24 of the terms' sizes
    slack = 64 * 2.0**-24 * F.linear(x.abs().double(), weight.abs().double()) + 2 * ROUNDING * bias.abs().double()
    assert bool(((found.double() - exact).abs() <= ROUNDING * exact.abs() + slack).all())


def test_float32_and_other_devices_are_left_alone(monkeypatch):
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: False)
    for kept in (torch.ones(2), torch.ones(2, dtype=torch.bfloat16, device="meta")):
        assert products.widened(kept) is kept
    assert products.widened(torch.ones(2).bfloat16()).dtype is torch.float32


def packed(x: Tensor, a: Tensor, b: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Output of two trials, and the gradients of its sum of squares."""
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    linear.weight.data = weight
    linear.requires_grad_(False)
    layer = PackedLinear(linear)
    leaves = [each.clone().requires_grad_() for each in (x, a, b)]
    layer.take(Change(a=leaves[1], b=leaves[2]))
    y = layer(leaves[0])
    return y.detach(), *torch.autograd.grad(y, leaves, y.detach())


def test_an_adapted_layer_and_gradients_are_those_of_float64(fast):
    args = drawn(4, 9, 48), drawn(2, 4, 48, seed=1), drawn(2, 32, 4, seed=2), drawn(32, 48, seed=3)
    found, exact = packed(*args), packed(*(each.double() for each in args))
    for name, part, wanted in zip(("y", "dx", "da", "db"), found, exact, strict=True):
        assert part.dtype is torch.bfloat16, name
        off = (part.double() - wanted).norm() / wanted.norm()
        assert off < 2 * ROUNDING, name


def test_attention_through_float32_is_that_of_bfloat16(monkeypatch):
    query, key, value = (drawn(2, 6, 12, 16, seed=seed) for seed in range(3))
    module, answers = torch.nn.Module(), []
    module.is_causal = True
    for multiplies in (False, True):
        monkeypatch.setattr(products, "multiplies_bfloat16", lambda multiplies=multiplies: multiplies)
        mixed, _ = attention(module, query, key, value, None, scaling=0.25)
        assert mixed.dtype is torch.bfloat16
        answers.append(mixed.float())
    torch.testing.assert_close(*answers, atol=4 * ROUNDING, rtol=4 * ROUNDING)


def test_layers_without_an_adapter_go_the_same_way(monkeypatch):
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: False)
    model = PackedModel(tiny_model(dtype=torch.bfloat16), targets=("q_proj",))
    seen = []
    plain = products._linear
    monkeypatch.setattr(products, "_linear", lambda x, *rest: seen.append(x.dtype) or plain(x, *rest))
    bank = make_bank(model, model.layout(2), [0, 1], [1.0, 1.0])
    with model.adapted(bank.layout, bank.values, bank.scaling), torch.no_grad():
        model.logits(model.hidden(torch.arange(8).view(2, 4)).flatten(0, 1))
    layers = model.module.config.num_hidden_layers
    assert seen == [torch.float32] * (7 * layers + 1)
    assert torch.nn.functional.linear is plain
