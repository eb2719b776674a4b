"""silu(gate) * up behind the updates of both, forward and back, on a GPU: what they add is never written.

Apart, the two updates of a feed-forward layer read and write its widest states, and their product reads them again: 14
bytes a number, where reading what the base gives and writing the product takes 6.
"""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]  # the same
from torch import Tensor

from harness.engine.model.kernels.tiles import ranks_of

#: Tokens and columns of a program: the fastest of 12 on an H200 at rank 8, in 47 us forward for 12,000 tokens of 135M;
#: with factors in three parts, the fastest of 10, in 379 us for 117,000, which take 258 to read and write.
TILE, TILE_IN_THREE = (32, 64), (64, 64)
#: Products of parts, of all ranks, that are summed at once.
TERMS = 64


@triton.jit
def _tile(count, height, rows: tl.constexpr, columns: tl.constexpr):
    """(Trial, tokens, columns, which of both are inside) of a program."""
    trial = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    c = tl.program_id(1) * columns + tl.arange(0, columns)
    return trial, i, c, i[:, None] < count, c[None, :] < height


@triton.jit
def _updated(
    y, place, inside, down, rows_inside, b, columns_inside, rank, b_rank, ranks: tl.constexpr, parts: tl.constexpr,
):  # fmt: skip
    """What a matrix gives with its update, rounded as where it is written."""
    total = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
    for number in tl.static_range(parts):
        j = number * ranks + tl.arange(0, ranks)
        part = tl.load(down + j[None, :], mask=rows_inside & (j[None, :] < rank), other=0.0)
        factor = tl.load(b + j[:, None] * b_rank, mask=columns_inside & (j[:, None] < rank), other=0.0)
        total = tl.dot(part, factor, total, input_precision="ieee")
    return total.to(y.dtype.element_ty).to(tl.float32)


@triton.jit
def _with_terms(total, start, down, rows_inside, b, height, columns_inside, rank, terms: tl.constexpr):
    """total + ``terms`` products of parts from ``start``, of each of the six in turn all ranks."""
    j = start + tl.arange(0, terms)
    product, there = j // rank, j < 6 * rank
    of_down = tl.where(product < 3, 0, tl.where(product < 5, 1, 2))  # high three times, middle twice, low
    of_b = tl.where(product < 3, product, tl.where(product < 5, product - 3, 0))
    part = tl.load(down + (of_down * 2 * rank + j % rank)[None, :], mask=rows_inside & there[None, :], other=0.0)
    factor = tl.load(b + (of_b * rank + j % rank)[:, None] * height, mask=columns_inside & there[:, None], other=0.0)
    return tl.dot(part, factor, total)


@triton.jit
def _updated_in_three(
    y, place, inside, down, rows_inside, b, height, columns_inside, rank, once: tl.constexpr, terms: tl.constexpr,
):  # fmt: skip
    """The same of states and factors that are sums of three: high, middle and low.

    Six products of parts are above 2^-24 of the whole.  They are one product of parts that are read side by side: cut
    and multiplied one by one they took 497 us where this takes 379, of one run.
    """
    total = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
    if once:
        total = _with_terms(total, 0, down, rows_inside, b, height, columns_inside, rank, terms)
    else:
        for start in range(0, 6 * rank, terms):
            total = _with_terms(total, start, down, rows_inside, b, height, columns_inside, rank, terms)
    return total.to(y.dtype.element_ty).to(tl.float32)


@triton.jit
def _opened(opening, passed, dtype: tl.constexpr):
    """silu(opening) * passed, rounded after each of the two."""
    return ((opening * tl.sigmoid(opening)).to(dtype).to(tl.float32) * passed).to(dtype)


@triton.jit
def _forward(
    gate, up, down, b_gate, b_up, out, count, height, rank, b_trial, b_rank, b_column,
    rows: tl.constexpr, columns: tl.constexpr, ranks: tl.constexpr, parts: tl.constexpr,
):  # fmt: skip
    trial, i, c, rows_inside, columns_inside = _tile(count, height, rows, columns)
    place, inside = (trial * count + i[:, None]) * height + c[None, :], rows_inside & columns_inside
    down += (trial * count + i[:, None]) * 2 * rank
    at = trial * b_trial + c[None, :] * b_column
    opening = _updated(gate, place, inside, down, rows_inside, b_gate + at, columns_inside, rank, b_rank,
                       ranks, parts)  # fmt: skip
    passed = _updated(up, place, inside, down + rank, rows_inside, b_up + at, columns_inside, rank, b_rank,
                      ranks, parts)  # fmt: skip
    tl.store(out + place, _opened(opening, passed, out.dtype.element_ty), mask=inside)


@triton.jit
def _forward_in_three(
    gate, up, down, b_gate, b_up, out, count, height, rank, once: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr, terms: tl.constexpr,
):  # fmt: skip
    trial, i, c, rows_inside, columns_inside = _tile(count, height, rows, columns)
    place, inside = (trial * count + i[:, None]) * height + c[None, :], rows_inside & columns_inside
    down += (trial * count + i[:, None]) * 6 * rank
    at = trial * 3 * rank * height + c[None, :]
    opening = _updated_in_three(gate, place, inside, down, rows_inside, b_gate + at, height, columns_inside, rank,
                                once, terms)  # fmt: skip
    passed = _updated_in_three(up, place, inside, down + rank, rows_inside, b_up + at, height, columns_inside, rank,
                               once, terms)  # fmt: skip
    tl.store(out + place, _opened(opening, passed, out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    d_out, d_next, a_next, gate, up, down, b_gate, b_up, d_gate, d_up, a_trial, a_rank, count, height, rank, b_trial,
    b_rank, b_column, rows: tl.constexpr, columns: tl.constexpr, ranks: tl.constexpr, parts: tl.constexpr,
):  # fmt: skip
    trial, i, c, rows_inside, columns_inside = _tile(count, height, rows, columns)
    place, inside = (trial * count + i[:, None]) * height + c[None, :], rows_inside & columns_inside
    down += (trial * count + i[:, None]) * 2 * rank
    at = trial * b_trial + c[None, :] * b_column
    opening = _updated(gate, place, inside, down, rows_inside, b_gate + at, columns_inside, rank, b_rank,
                       ranks, parts)  # fmt: skip
    passed = _updated(up, place, inside, down + rank, rows_inside, b_up + at, columns_inside, rank, b_rank,
                      ranks, parts)  # fmt: skip
    d_next += (trial * count + i[:, None]) * rank
    change = _updated(d_out, place, inside, d_next, rows_inside, a_next + trial * a_trial + c[None, :], columns_inside,
                      rank, a_rank, ranks, parts)  # fmt: skip
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
    _forward[_grid(gate, TILE)](  # pyright: ignore[reportIndexIssue]  # a kernel's grid
        gate, up, down, b_gate, b_up, out, *gate.shape[1:], *_about(b_gate)
    )
    return out


def gated_in_three(gate: Tensor, up: Tensor, down: Tensor, b_gate: Tensor, b_up: Tensor) -> Tensor:
    """The same of states and factors in float32, as sums of three of bfloat16: ``down`` [K, T, 3, 2 r], and ``b_gate``
    and ``b_up`` [K, 3, r, m], all contiguous.
    """
    out, rank = torch.empty_like(gate), b_gate.shape[2]
    _forward_in_three[_grid(gate, TILE_IN_THREE)](  # pyright: ignore[reportIndexIssue]  # the same
        gate, up, down, b_gate, b_up, out, *gate.shape[1:], rank, 6 * rank <= TERMS, *TILE_IN_THREE, TERMS, num_warps=4
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
    _backward[_grid(gate, TILE)](  # pyright: ignore[reportIndexIssue]  # the same
        d_out, d_next, a_next, gate, up, down, b_gate, b_up, d_gate, d_up, *a_next.stride()[:2], *gate.shape[1:],
        *_about(b_gate),
    )  # fmt: skip
    return d_gate, d_up


def _alike(b_gate: Tensor, b_up: Tensor) -> tuple[Tensor, Tensor]:
    """Of the same strides."""
    return (b_gate, b_up) if b_gate.stride() == b_up.stride() else (b_gate.contiguous(), b_up.contiguous())


def _grid(gate: Tensor, tile: tuple[int, int]) -> tuple[int, int, int]:
    trials, count, height = gate.shape
    rows, columns = tile
    return triton.cdiv(count, rows), triton.cdiv(height, columns), trials


def _about(b: Tensor) -> tuple[int, ...]:
    rank = b.shape[2]
    ranks = ranks_of(rank)
    return rank, b.stride(0), b.stride(2), b.stride(1), *TILE, ranks, triton.cdiv(rank, ranks)
