"""silu(gate) * up behind the updates of both, forward and back, on a GPU: what they add is never written.

Apart, the two updates of a feed-forward layer read and write its widest states, and their product reads them again: 14
bytes a number, where reading what the base gives and writing the product takes 6.
"""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]  # the same
from torch import Tensor

from harness.engine.model.kernels.tiles import cut_in_three, ranks_of

#: Tokens and columns of a program, by the dtype of the factors: the fastest of 12 on an H200 at rank 8, in 47 us
#: forward for 12,000 tokens of 135M; in float32 of a hundred, in 469 us for 117,000, which take 256 to read and write.
TILES = {torch.float32: (64, 64)}
TILE = (32, 64)


@triton.jit
def _added(total, states, factor, cut: tl.constexpr):
    """total + states factor; ``cut``: of float32, by the six products of their parts that are above 2^-24 of it."""
    if cut:
        high, middle, low = cut_in_three(states)
        factor_high, factor_middle, factor_low = cut_in_three(factor)
        total = tl.dot(low, factor_high, total)
        total = tl.dot(middle, factor_middle, total)
        total = tl.dot(high, factor_low, total)
        total = tl.dot(middle, factor_high, total)
        total = tl.dot(high, factor_middle, total)
        return tl.dot(high, factor_high, total)
    else:
        return tl.dot(states, factor, total, input_precision="ieee")


@triton.jit
def _updated(
    y, place, inside, down, rows_inside, b, columns_inside, rank, b_rank, cut: tl.constexpr, ranks: tl.constexpr,
    parts: tl.constexpr,
):  # fmt: skip
    """What a matrix gives with its update, rounded as where it is written."""
    total = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
    for number in tl.static_range(parts):
        j = number * ranks + tl.arange(0, ranks)
        part = tl.load(down + j[None, :], mask=rows_inside & (j[None, :] < rank), other=0.0)
        factor = tl.load(b + j[:, None] * b_rank, mask=columns_inside & (j[:, None] < rank), other=0.0)
        total = _added(total, part, factor, cut)
    return total.to(y.dtype.element_ty).to(tl.float32)


@triton.jit
def _forward(
    gate, up, down, b_gate, b_up, out, count, height, rank, b_trial, b_rank, b_column, cut: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, ranks: tl.constexpr, parts: tl.constexpr,
):  # fmt: skip
    trial = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    c = tl.program_id(1) * columns + tl.arange(0, columns)
    rows_inside, columns_inside = i[:, None] < count, c[None, :] < height
    place, inside = (trial * count + i[:, None]) * height + c[None, :], rows_inside & columns_inside
    down += (trial * count + i[:, None]) * 2 * rank
    at = trial * b_trial + c[None, :] * b_column
    opening = _updated(gate, place, inside, down, rows_inside, b_gate + at, columns_inside, rank, b_rank, cut,
                       ranks, parts)  # fmt: skip
    passed = _updated(up, place, inside, down + rank, rows_inside, b_up + at, columns_inside, rank, b_rank, cut,
                      ranks, parts)  # fmt: skip
    opened = (opening * tl.sigmoid(opening)).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + place, (opened * passed).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    d_out, d_next, a_next, gate, up, down, b_gate, b_up, d_gate, d_up, a_trial, a_rank, count, height, rank, b_trial,
    b_rank, b_column, cut: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, ranks: tl.constexpr,
    parts: tl.constexpr,
):  # fmt: skip
    trial = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    c = tl.program_id(1) * columns + tl.arange(0, columns)
    rows_inside, columns_inside = i[:, None] < count, c[None, :] < height
    place, inside = (trial * count + i[:, None]) * height + c[None, :], rows_inside & columns_inside
    down += (trial * count + i[:, None]) * 2 * rank
    at = trial * b_trial + c[None, :] * b_column
    opening = _updated(gate, place, inside, down, rows_inside, b_gate + at, columns_inside, rank, b_rank, cut,
                       ranks, parts)  # fmt: skip
    passed = _updated(up, place, inside, down + rank, rows_inside, b_up + at, columns_inside, rank, b_rank, cut,
                      ranks, parts)  # fmt: skip
    d_next += (trial * count + i[:, None]) * rank
    change = _updated(d_out, place, inside, d_next, rows_inside, a_next + trial * a_trial + c[None, :], columns_inside,
                      rank, a_rank, cut, ranks, parts)  # fmt: skip
    open_by = tl.sigmoid(opening)
    opened = opening * open_by
    tl.store(d_up + place, (change * opened).to(d_up.dtype.element_ty), mask=inside)
    change = change * passed * (open_by + opened * (1 - open_by))
    tl.store(d_gate + place, change.to(d_gate.dtype.element_ty), mask=inside)


def gated(gate: Tensor, up: Tensor, down: Tensor, b_gate: Tensor, b_up: Tensor) -> Tensor:
    """silu(``gate`` + down_gate b_gate^T) * (``up`` + down_up b_up^T), [K, T, m], of what the base gives, [K, T, m].

    ``down`` [K, T, 2 r] has the states behind both A beside each other; ``b_gate`` and ``b_up`` are [K, m, r], in its
    dtype.  Everything else is contiguous; sums are kept in float32 and rounded where each matrix would be.
    """
    out = torch.empty_like(gate)
    b_gate, b_up = _alike(b_gate, b_up)
    _forward[_grid(gate, b_gate)](  # pyright: ignore[reportIndexIssue]  # a kernel's grid
        gate, up, down, b_gate, b_up, out, *gate.shape[1:], *_about(down, b_gate)
    )
    return out


def gated_back(
    d_out: Tensor, d_next: Tensor, a_next: Tensor, gate: Tensor, up: Tensor, down: Tensor, b_gate: Tensor, b_up: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of what gate and up give with their updates, [K, T, m] each, from that of :func:`gated`.

    Which is ``d_out`` [K, T, m] + ``d_next`` [K, T, r] ``a_next`` [K, r, m]: what comes back through the base, and
    through the A of the layer that reads it.
    """
    d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
    b_gate, b_up = _alike(b_gate, b_up)
    _backward[_grid(gate, b_gate)](  # pyright: ignore[reportIndexIssue]  # the same
        d_out, d_next, a_next, gate, up, down, b_gate, b_up, d_gate, d_up, *a_next.stride()[:2], *gate.shape[1:],
        *_about(down, b_gate),
    )  # fmt: skip
    return d_gate, d_up


def _alike(b_gate: Tensor, b_up: Tensor) -> tuple[Tensor, Tensor]:
    """Of the same strides; in float32 along its rows, which is read in a third of the time."""
    if b_gate.dtype is torch.float32:
        return b_gate.mT.contiguous().mT, b_up.mT.contiguous().mT
    return (b_gate, b_up) if b_gate.stride() == b_up.stride() else (b_gate.contiguous(), b_up.contiguous())


def _grid(gate: Tensor, factors: Tensor) -> tuple[int, int, int]:
    trials, count, height = gate.shape
    rows, columns = TILES.get(factors.dtype, TILE)
    return triton.cdiv(count, rows), triton.cdiv(height, columns), trials


def _about(down: Tensor, b: Tensor) -> tuple[object, ...]:
    rank = b.shape[2]
    ranks, cut = ranks_of(rank), down.dtype is torch.float32 and down.is_cuda
    return rank, b.stride(0), b.stride(2), b.stride(1), cut, *TILES.get(b.dtype, TILE), ranks, triton.cdiv(rank, ranks)
