"""Layers that read the same states (q, k and v; gate and up): on a GPU the states meet all their factors at once.

A step of 30 trials of 135M multiplies the states of every layer with 14 thin factors, forward and twice back; what is
read for one is read for all, in a third fewer products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from harness.engine.model.linear import PackedLinear

#: In which tensor cores multiply what is trained; other dtypes are left to torch.
HALVES = (torch.bfloat16, torch.float16)


def has_kernels(states: torch.dtype, factors: torch.dtype) -> bool:
    """Whether the kernels are made for these: factors in float32, as PEFT infers, or in 16 bits too, as in training."""
    return states in HALVES and factors in (torch.float32, states)


class Readers:
    """Layers that are called one after the other with the same tensor; the first call computes for all."""

    def __init__(self, members: Sequence[PackedLinear]) -> None:
        self.members = tuple(members)
        self._states: Tensor | None = None
        self._outputs: dict[PackedLinear, Tensor] = {}

    def output(self, member: PackedLinear, x: Tensor, kernels: ModuleType) -> Tensor:
        """That of one member for ``x`` [K * R, T, n]."""
        if self._states is not x or member not in self._outputs:
            members = self.members if self._alike() else (member,)
            self._states, self._outputs = x, dict(zip(members, _outputs(members, x, kernels), strict=True))
        y = self._outputs.pop(member)
        if not self._outputs:
            self._states = None
        return y

    def _alike(self) -> bool:
        """Whether all have factors, of one dtype."""
        pairs = [None if member.change is None else member.change.low_rank for member in self.members]
        return None not in pairs and len({pair[0].dtype for pair in pairs if pair}) == 1


def find_readers(linears: Sequence[PackedLinear], read: Callable[[], object]) -> Iterator[Readers]:
    """Those among ``linears``, in the order in which ``read``, a pass of the model, calls them."""
    seen: list[tuple[Tensor, list[PackedLinear]]] = []  # the tensors are kept: no other can take the place of one

    def note(member: Any, given: tuple[Tensor, ...]) -> None:
        if seen and seen[-1][0] is given[0] and member not in seen[-1][1]:
            seen[-1][1].append(member)
        else:
            seen.append((given[0], [member]))

    with ExitStack() as hooks, torch.no_grad():
        for linear in linears:
            hooks.callback(linear.register_forward_pre_hook(note).remove)
        read()
    return (Readers(members) for _, members in seen)


def _outputs(members: Sequence[PackedLinear], x: Tensor, kernels: ModuleType) -> Sequence[Tensor]:
    pairs = [member.change.low_rank for member in members if member.change is not None]
    factors_a, factors_b = zip(*(pair for pair in pairs if pair), strict=True)
    weights, biases = [member.weight for member in members], [member.bias for member in members]
    if factors_a[0].dtype is x.dtype:
        return _SharedLoRA.apply(kernels, x, len(members), *factors_a, *factors_b, *weights, *biases)
    trials = factors_a[0].shape[0]
    ys = [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    kernels.add_updates(
        [y.view(trials, -1, y.shape[-1]) for y in ys],
        x.reshape(trials, -1, x.shape[-1]).contiguous(),
        _stacked(factors_a),
        factors_b,
    )
    return ys


def _stacked(factors: Sequence[Tensor]) -> Tensor:
    """Factors [K, r_i, n] below each other [K, R, n]; a view where they lie so, as in the values of trials."""
    first = factors[0]
    trials, _, width = first.shape
    rank = sum(factor.shape[1] for factor in factors)
    place = first.storage_offset()
    for factor in factors:
        if (
            factor.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
            or factor.storage_offset() != place
            or factor.stride() != (first.stride(0), width, 1)
        ):
            return torch.cat(list(factors), 1)
        place += factor.shape[1] * width
    return first.as_strided((trials, rank, width), first.stride())


class _SharedLoRA(torch.autograd.Function):
    """Y_i = X W_i^T + b_i + (X_k A_ik^T) B_ik^T for K trials and all readers of X; W_i and b_i are frozen."""

    @staticmethod
    def forward(ctx: Any, kernels: ModuleType, x: Tensor, count: int, *given: Tensor) -> tuple[Tensor, ...]:
        factors_a, factors_b, weights, biases = (given[i * count : (i + 1) * count] for i in range(4))
        trials, _, width = factors_a[0].shape
        rows, a = x.reshape(trials, -1, width).contiguous(), _stacked(factors_a)
        down = x.new_empty(*rows.shape[:2], a.shape[1])
        kernels.reduce(rows, a, down)
        ys = [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        for y, b, part in zip(ys, factors_b, _parts(down, factors_b), strict=True):
            kernels.expand(y.view(trials, -1, y.shape[-1]), part, b.mT)
        ctx.kernels, ctx.ranks = kernels, [factor.shape[1] for factor in factors_a]
        ctx.save_for_backward(rows, down, a, *factors_b, *weights)
        ctx.shape = x.shape
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Any, ...]:
        count, kernels = len(dys), ctx.kernels
        rows, down, a, *others = ctx.saved_tensors
        factors_b, weights = others[:count], others[count:]
        d_down, d_bs = torch.empty_like(down), []
        flat = [dy.reshape(len(rows), -1, dy.shape[-1]).contiguous() for dy in dys]
        for dy, b, part, d_part in zip(
            flat, factors_b, *(_parts(each, factors_b) for each in (down, d_down)), strict=True
        ):
            kernels.reduce(dy, b.mT, d_part)
            d_b = torch.empty_like(b, memory_format=torch.contiguous_format)
            kernels.outer(part, dy, d_b.mT)
            d_bs.append(d_b)
        dx = None
        if ctx.needs_input_grad[1]:
            dx = flat[0].flatten(0, 1) @ weights[0]
            for dy, weight in zip(flat[1:], weights[1:], strict=True):
                dx.addmm_(dy.flatten(0, 1), weight)
            kernels.expand(dx.view_as(rows), d_down, a)
            dx = dx.view(ctx.shape)
        d_a = torch.empty(a.shape, dtype=a.dtype, device=a.device)
        kernels.outer(d_down, rows, d_a)
        return None, dx, None, *d_a.split(ctx.ranks, 1), *d_bs, *[None] * (2 * count)


def _parts(states: Tensor, factors_b: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of states [K, T, R], those of every factor [K, m, r]."""
    return states.split([b.shape[2] for b in factors_b], 2)
