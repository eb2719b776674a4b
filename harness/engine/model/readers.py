"""Layers that read the same states (q, k and v; gate and up): on a GPU the states meet all their factors at once.

A step of 30 trials of 135M multiplies the states of every layer with 14 thin factors, forward and twice back; what is
read for one is read for all, in a fifth fewer products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.engine.model.try_kernels import kernels_for

if TYPE_CHECKING:
    from harness.engine.model.linear import PackedLinear

#: Tokens of a pass that have float32 copies at a time, where torch adds them: at most 1.2 GB at the widths of a 1.5B
#: model.
PRECISE_ROWS = 32768


class Readers:
    """Layers that are called one after the other with the same tensor; the first call computes for all."""

    def __init__(self, members: Sequence[PackedLinear]) -> None:
        self.members = tuple(members)
        self._states: Tensor | None = None
        self._outputs: dict[PackedLinear, Tensor] = {}

    def output(self, member: PackedLinear, x: Tensor) -> Tensor:
        """That of one member for ``x`` [K * R, T, n]."""
        if self._states is not x or member not in self._outputs:
            members = self.members if self._alike() else (member,)
            self._states, self._outputs = x, dict(zip(members, _outputs(members, x), strict=True))
        y = self._outputs.pop(member)
        if not self._outputs:
            self._states = None
        return y

    def forget(self) -> None:
        """Keep nothing of a pass that stopped between two members."""
        self._states, self._outputs = None, {}

    def _alike(self) -> bool:
        """Whether all have factors, of one dtype."""
        pairs = [None if member.change is None else member.change.low_rank for member in self.members]
        return None not in pairs and len({pair[0].dtype for pair in pairs if pair}) == 1


def find_readers(linears: Sequence[PackedLinear], read: Callable[[], object]) -> list[Readers]:
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
    return [Readers(members) for _, members in seen]


def _outputs(members: Sequence[PackedLinear], x: Tensor) -> Sequence[Tensor]:
    pairs = [member.change.low_rank for member in members if member.change is not None]
    factors_a, factors_b = zip(*(pair for pair in pairs if pair), strict=True)
    weights, biases = [member.weight for member in members], [member.bias for member in members]
    if factors_a[0].dtype is x.dtype:
        return _SharedLoRA.apply(x, len(members), *factors_a, *factors_b, *weights, *biases)
    ys = [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    _add_in_float32(ys, x, stacked_factors(factors_a), factors_b)
    return ys


def _add_in_float32(ys: Sequence[Tensor], x: Tensor, a: Tensor, factors_b: Sequence[Tensor]) -> None:
    """Add factors in float32 to outputs of 16 bits, before they are rounded again: as PEFT does outside autocast."""
    rows, into = x.reshape(len(a), -1, a.shape[2]), [y.view(len(a), -1, y.shape[-1]) for y in ys]
    if kernels := kernels_for(x.device):
        assert not torch.is_grad_enabled(), "float32 factors on a base of 16 bits infer"
        kernels.add_updates(into, rows.contiguous(), a, factors_b)
        return
    chunk = max(1, PRECISE_ROWS // len(a))
    for start in range(0, rows.shape[1], chunk):
        part = slice(start, start + chunk)
        down = torch.bmm(rows[:, part].float(), a.mT)
        for y, b, of in zip(into, factors_b, _parts(down, factors_b), strict=True):
            y[:, part] += torch.bmm(of, b.mT)  # one kernel adds float32 to bfloat16: 1.4 times as fast as copies


def stacked_factors(factors: Sequence[Tensor]) -> Tensor:
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
    def forward(ctx: Any, x: Tensor, count: int, *given: Tensor) -> tuple[Tensor, ...]:
        factors_a, factors_b, weights, biases = (given[i * count : (i + 1) * count] for i in range(4))
        trials, _, width = factors_a[0].shape
        rows, a = x.reshape(trials, -1, width), stacked_factors(factors_a)
        down = torch.bmm(rows, a.mT)
        ys = [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        for y, b, part in zip(ys, factors_b, _parts(down, factors_b), strict=True):
            y.view(trials, -1, y.shape[-1]).baddbmm_(part, b.mT)
        ctx.save_for_backward(x, down, a, *factors_b, *weights)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Any, ...]:
        x, down, a, *others = ctx.saved_tensors
        factors_b, weights = others[: len(dys)], others[len(dys) :]
        dx, d_a, d_b = gradients(x, down, a, factors_b, weights, dys, needs_x=ctx.needs_input_grad[0])
        return dx, None, *d_a, *d_b, *[None] * (2 * len(dys))


def gradients(
    x: Tensor, down: Tensor, a: Tensor, factors_b: Sequence[Tensor], weights: Sequence[Tensor], dys: Sequence[Tensor],
    *, needs_x: bool,
) -> tuple[Tensor | None, Sequence[Tensor], Sequence[Tensor]]:  # fmt: skip
    """Those of X, of every A [K, r_i, n] and of every B [K, m_i, r_i], from those of what the layers give, ``dys``.

    ``down`` [K, T, R] are the states behind ``a`` [K, R, n], all A below each other.
    """
    rows = x.reshape(len(a), -1, a.shape[2])
    flat = [dy.reshape(len(a), -1, dy.shape[-1]) for dy in dys]
    d_down = torch.cat([torch.bmm(dy, b) for dy, b in zip(flat, factors_b, strict=True)], 2)
    d_bs = [torch.bmm(dy.mT, part) for dy, part in zip(flat, _parts(down, factors_b), strict=True)]
    dx = None
    if needs_x:
        dx = flat[0].flatten(0, 1) @ weights[0]
        for dy, weight in zip(flat[1:], weights[1:], strict=True):
            dx.addmm_(dy.flatten(0, 1), weight)
        dx.view_as(rows).baddbmm_(d_down, a)
        dx = dx.view_as(x)
    return dx, torch.bmm(d_down.mT, rows).split([b.shape[2] for b in factors_b], 1), d_bs


def _parts(states: Tensor, factors_b: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of states [K, T, R], those of every factor [K, m, r]."""
    return states.split([b.shape[2] for b in factors_b], 2)
