"""A feed-forward layer under the factors of K trials, on a GPU: what stands between its base products is one kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.engine.model.linear import PackedLinear
from harness.engine.model.precision import LOW
from harness.engine.model.readers import gradients, stacked_factors


def use_gates(model: nn.Module, kernels: ModuleType) -> None:
    """Where the three layers of a feed-forward layer have factors, its forward is one with the kernel; else its own."""
    for layer in model.modules():
        members = [getattr(layer, f"{name}_proj", None) for name in ("gate", "up", "down")]
        if all(isinstance(member, PackedLinear) for member in members):
            layer.forward = _forward(layer.forward, members, kernels)


def _forward(
    own: Callable[[Tensor], Tensor], members: Sequence[Any], kernels: ModuleType
) -> Callable[[Tensor], Tensor]:
    weights, biases = [member.weight for member in members], [member.bias for member in members]
    for member in members[:2]:
        member.cuts = True

    def forward(x: Tensor) -> Tensor:
        pairs = [member.change and member.change.low_rank for member in members]
        # which a call of the layers alone would run
        watched = any(member._forward_pre_hooks or member._forward_hooks for member in members)
        if x.dtype not in LOW or None in pairs or watched:
            return own(x)
        factors_a, factors_b = zip(*pairs, strict=True)
        if len({(b.shape[2], b.dtype) for b in factors_b}) > 1:
            return own(x)
        if factors_a[0].dtype is x.dtype:
            return _FeedForwardLoRA.apply(kernels, x, *factors_a, *factors_b, *weights, *biases)
        assert not torch.is_grad_enabled(), "float32 factors on a base of 16 bits infer"
        rows = x.reshape(len(factors_a[0]), -1, x.shape[-1]).contiguous()
        down = kernels.down_in_three(rows, stacked_factors(factors_a[:2]))
        opened = kernels.gated_in_three(*_of_base(rows, weights, biases), down, *(each.thirds for each in members[:2]))
        return members[2](opened.view(*x.shape[:-1], -1))

    return forward


def _of_base(rows: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> list[Tensor]:
    """What the base gives for gate and for up, [K, T, m]."""
    return [F.linear(rows, weight, bias) for weight, bias in zip(weights[:2], biases[:2], strict=True)]


class _FeedForwardLoRA(torch.autograd.Function):
    """W_down' (silu(W_gate' X) * (W_up' X)) for K trials, W' = W + B_k A_k; the base is frozen.

    What the base gives for gate and up is kept, not what comes out of the updates: the way back adds them again, and
    the update of the gradient that it begins with.
    """

    @staticmethod
    def forward(ctx: Any, kernels: ModuleType, x: Tensor, *given: Tensor) -> Tensor:
        factors_a, factors_b, weights, biases = (given[i : i + 3] for i in range(0, 12, 3))
        a, a_next = stacked_factors(factors_a[:2]), factors_a[2]
        rows = x.reshape(len(a), -1, a.shape[2])
        down = torch.bmm(rows, a.mT)
        gate, up = _of_base(rows, weights, biases)
        opened = kernels.gated(gate, up, down, *factors_b[:2])
        next_down = torch.bmm(opened, a_next.mT)
        ctx.kernels = kernels
        ctx.save_for_backward(x, down, a, gate, up, opened, next_down, a_next, *factors_b, *weights)
        y = F.linear(opened, weights[2], biases[2])
        return y.baddbmm_(next_down, factors_b[2].mT).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, down, a, gate, up, opened, next_down, a_next, b_gate, b_up, b_next, *weights = ctx.saved_tensors
        dy = dy.reshape(len(a), -1, dy.shape[-1])
        d_next = torch.bmm(dy, b_next)
        d_opened = (dy.flatten(0, 1) @ weights[2]).view_as(gate)
        dys = ctx.kernels.gated_back(d_opened, d_next, a_next, gate, up, down, b_gate, b_up)
        needs_x = ctx.needs_input_grad[1]
        dx, d_a, d_b = gradients(x, down, a, (b_gate, b_up), weights[:2], dys, needs_x=needs_x)
        d_a_next, d_b_next = torch.bmm(d_next.mT, opened), torch.bmm(dy.mT, next_down)
        return None, dx, *d_a, d_a_next, *d_b, d_b_next, *[None] * 6
