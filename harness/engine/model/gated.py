"""A feed-forward layer whose gate is opened behind the updates of K trials, in one kernel, on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.engine.model.linear import PackedLinear
from harness.engine.model.precision import LOW
from harness.engine.model.readers import gradients, stacked_factors


def use_gates(model: nn.Module, kernels: ModuleType) -> None:
    """Where a feed-forward layer's gate and up have factors, its forward is one with the kernel; else its own."""
    for layer in model.modules():
        gate, up = getattr(layer, "gate_proj", None), getattr(layer, "up_proj", None)
        if isinstance(gate, PackedLinear) and isinstance(up, PackedLinear):
            layer.forward = _forward(layer, gate, up, layer.forward, kernels)


def _forward(
    layer: Any, gate: PackedLinear, up: PackedLinear, own: Callable[[Tensor], Tensor], kernels: ModuleType
) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        of_gate, of_up = (member.change and member.change.low_rank for member in (gate, up))
        # which a call of the layers alone would run
        watched = any(layer._forward_pre_hooks or layer._forward_hooks for layer in (gate, up))
        if x.dtype not in LOW or of_gate is None or of_up is None or of_gate[0].shape != of_up[0].shape or watched:
            return own(x)
        (a_gate, b_gate), (a_up, b_up) = of_gate, of_up
        weights = (gate.weight, up.weight, gate.bias, up.bias)
        if a_gate.dtype is x.dtype:
            return layer.down_proj(_GatedLoRA.apply(kernels, x, a_gate, a_up, b_gate, b_up, *weights))
        assert not torch.is_grad_enabled(), "float32 factors on a base of 16 bits infer"
        rows = x.reshape(len(a_gate), -1, x.shape[-1]).contiguous()
        down = kernels.down_states(rows, stacked_factors((a_gate, a_up)))
        return layer.down_proj(_opened(kernels, x, down, b_gate, b_up, weights)[0])

    return forward


def _opened(
    kernels: ModuleType, x: Tensor, down: Tensor, b_gate: Tensor, b_up: Tensor, weights: tuple[Tensor | None, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """(What comes through the gate [.., m], what the base gives for gate and for up [K, T, m])."""
    w_gate, w_up, bias_gate, bias_up = weights
    assert w_gate is not None
    assert w_up is not None
    gate, up = (
        F.linear(x, weight, bias).view(len(down), -1, len(weight))
        for weight, bias in ((w_gate, bias_gate), (w_up, bias_up))
    )
    return kernels.gated(gate, up, down, b_gate, b_up).view(*x.shape[:-1], -1), gate, up


class _GatedLoRA(torch.autograd.Function):
    """silu(X Wg^T + (X_k Ag_k^T) Bg_k^T) * (X Wu^T + (X_k Au_k^T) Bu_k^T) for K trials; the base is frozen.

    What the base gives is kept, not what comes out of the updates: the way back adds them again.
    """

    @staticmethod
    def forward(
        ctx: Any, kernels: ModuleType, x: Tensor, a_gate: Tensor, a_up: Tensor, b_gate: Tensor, b_up: Tensor,
        *weights: Tensor | None,
    ) -> Tensor:  # fmt: skip
        a = stacked_factors((a_gate, a_up))
        down = torch.bmm(x.reshape(len(a), -1, a.shape[2]), a.mT)
        out, gate, up = _opened(kernels, x, down, b_gate, b_up, weights)
        ctx.kernels = kernels
        ctx.save_for_backward(x, down, a, b_gate, b_up, gate, up, *weights[:2])
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Any, ...]:
        x, down, a, b_gate, b_up, gate, up, *weights = ctx.saved_tensors
        d_out = d_out.reshape(gate.shape).contiguous()
        dys = ctx.kernels.gated_back(d_out, gate, up, down, b_gate, b_up)
        dx, d_a, d_b = gradients(x, down, a, (b_gate, b_up), weights, dys, needs_x=ctx.needs_input_grad[1])
        return None, dx, *d_a, *d_b, *[None] * 4
