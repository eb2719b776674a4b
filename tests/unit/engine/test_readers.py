"""Layers that read the same states: each computes what it computes alone, with the same gradients."""

from __future__ import annotations

import pytest
import torch
from helpers import packed_model, relative
from torch import Tensor, nn

from harness.engine.model import linear
from harness.engine.model.linear import Change, PackedLinear
from harness.engine.model.readers import Readers, find_readers, stacked_factors

RANK, WIDTH, HEIGHTS = 8, 96, (130, 40, 40)
DEVICES = [
    torch.device("cpu"),
    pytest.param(torch.device("cuda"), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


def layers(device: torch.device, dtype: torch.dtype) -> list[PackedLinear]:
    torch.manual_seed(0)
    return [
        PackedLinear(nn.Linear(WIDTH, height, bias=height > 40).to(device, dtype).requires_grad_(False))
        for height in HEIGHTS
    ]


def pairs(values: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Factors that lie in ``values`` [K, P] as in a layout: those of one size beside each other, A first."""
    parts = values.split([RANK * WIDTH] * 3 + [RANK * height for height in HEIGHTS], 1)
    return [
        (parts[i].unflatten(1, (RANK, WIDTH)), parts[3 + i].unflatten(1, (height, RANK)))
        for i, height in enumerate(HEIGHTS)
    ]


def drawn(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_together_they_train_as_each_does_alone(device, dtype):
    members = layers(device, dtype)
    together = Readers(members)
    x = drawn(6, 7, WIDTH, device=device).to(dtype).requires_grad_()
    values = drawn(2, RANK * (3 * WIDTH + sum(HEIGHTS)), device=device).requires_grad_()

    def trained(*, alone: bool) -> list[Tensor]:
        ys = []
        for member, (a, b) in zip(members, pairs(values.to(dtype)), strict=True):
            member.take(Change(a, b))
        for member in members:
            low_rank = member.change.low_rank
            one = linear._PackedLoRA.apply(x, *low_rank, member.weight, member.bias, ())
            ys.append(one if alone else together.output(member, x))
        return [*ys, *torch.autograd.grad([y.square().sum() for y in ys], [x, values])]

    near = 1e-5 if dtype is torch.float32 else 2.0**-7
    for found, wanted in zip(trained(alone=False), trained(alone=True), strict=True):
        assert relative(found.detach().float(), wanted.detach().float()) < near
    assert not together._outputs, "nothing is kept that has been handed out"


@pytest.mark.parametrize("device", DEVICES)
def test_together_they_infer_in_float32_as_each_does_alone(device):
    members = layers(device, torch.bfloat16)
    together = Readers(members)
    x = drawn(6, 7, WIDTH, device=device).bfloat16()
    factors = pairs(drawn(2, RANK * (3 * WIDTH + sum(HEIGHTS)), device=device))
    for member, pair in zip(members, factors, strict=True):
        member.take(Change(*pair))
    with torch.no_grad():
        for member, (a, b) in zip(members, factors, strict=True):
            alone = linear._precise_update(x, a, b, member.weight, member.bias)
            torch.testing.assert_close(together.output(member, x), alone, atol=0, rtol=2.0**-7)


def test_an_output_that_nobody_asks_for_has_no_gradient():
    members = layers(torch.device("cpu"), torch.float32)
    together, values = Readers(members), drawn(2, RANK * (3 * WIDTH + sum(HEIGHTS)), device=torch.device("cpu"))
    x = drawn(6, 7, WIDTH, device=torch.device("cpu")).requires_grad_()
    for member, pair in zip(members, pairs(values.requires_grad_()), strict=True):
        member.take(Change(*pair))
    (found,) = torch.autograd.grad(together.output(members[0], x).sum(), x)
    alone = linear._PackedLoRA.apply(x, *members[0].change.low_rank, members[0].weight, members[0].bias, ())
    assert relative(found, torch.autograd.grad(alone.sum(), x)[0]) < 1e-5
    other = x.detach() + 1
    wanted = linear._PackedLoRA.apply(other, *members[1].change.low_rank, members[1].weight, members[1].bias, ())
    found = together.output(members[1], other)
    assert relative(found.detach(), wanted.detach()) < 1e-5, "what was read before is not handed out"


def test_a_new_change_forgets_a_pass_that_stopped():
    members = layers(torch.device("cpu"), torch.float32)
    together, x = Readers(members), drawn(6, 7, WIDTH, device=torch.device("cpu"))
    for member in members:
        member.readers = together
    values = drawn(2, RANK * (3 * WIDTH + sum(HEIGHTS)), device=torch.device("cpu"))
    for scale in (1.0, 2.0):
        for member, pair in zip(members, pairs(scale * values), strict=True):
            member.take(Change(*pair))
        together.output(members[0], x)  # and the others are not asked
    second = together.output(members[1], x)
    alone = linear._PackedLoRA.apply(x, *pairs(2.0 * values)[1], members[1].weight, members[1].bias, ())
    assert relative(second, alone) < 1e-5
    members[1].take(None)
    assert not together._outputs


def test_factors_that_lie_beside_each_other_are_not_copied():
    values = drawn(2, RANK * (3 * WIDTH + sum(HEIGHTS)), device=torch.device("cpu"))
    factors = [a for a, _ in pairs(values)]
    assert stacked_factors(factors).data_ptr() == values.data_ptr()
    assert torch.equal(stacked_factors(factors), torch.cat(factors, 1))
    for others in (factors[::-1], [factors[0], factors[2]], [factors[0].clone(), factors[1]]):
        assert torch.equal(stacked_factors(others), torch.cat(others, 1))


def test_the_layers_of_a_block_are_found():
    model = packed_model()
    tokens = torch.zeros(1, 2, dtype=torch.long)
    names = {linear: slot.module.rpartition(".")[2] for slot, linear in zip(model.slots, model._linears, strict=True)}
    found = [
        tuple(names[member] for member in each.members)
        for each in find_readers(model._linears, lambda: model.hidden(tokens))
    ]
    block = [("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)]
    assert found == block * 2
