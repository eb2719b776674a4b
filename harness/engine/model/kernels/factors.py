"""Products of states with the factors of K trials, forward and back, in training on a GPU.

Factors of rank 8 are too thin for a library's product of matrices: of the 46 ms that an H200 is busy with a step of 30
trials of 135M, 8 rows of 41 tokens each, it spends about 20 in them, where reading and writing what they need takes 5.
Sums are kept in float32 and rounded once.  No product is split over programs, so that the same numbers come out always.
"""

from __future__ import annotations

import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]  # the same
from torch import Tensor

from harness.engine.model.kernels.tiles import ranks_of


@triton.jit
def _reduce(
    x, a, out, count, width, rank, a_trial, a_rank, a_column, out_row,
    rows: tl.constexpr, columns: tl.constexpr, ranks: tl.constexpr,
):  # fmt: skip
    """out[k, i, j] = sum over c of x[k, i, c] a[k, j, c]."""
    trial = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    j = tl.program_id(1) * ranks + tl.arange(0, ranks)
    x += trial * count * width
    a += trial * a_trial
    total = tl.zeros((rows, ranks), dtype=tl.float32)
    for start in range(0, width, columns):
        c = start + tl.arange(0, columns)
        part = tl.load(
            x + i[:, None].to(tl.int64) * width + c[None, :],
            mask=(i[:, None] < count) & (c[None, :] < width), other=0.0,
        )  # fmt: skip
        factor = tl.load(
            a + j[None, :] * a_rank + c[:, None] * a_column,
            mask=(j[None, :] < rank) & (c[:, None] < width), other=0.0,
        )  # fmt: skip
        total = tl.dot(part, factor, total)
    place = (trial * count + i[:, None]) * out_row + j[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=(i[:, None] < count) & (j[None, :] < rank))


@triton.jit
def _expand(
    h, b, y, count, height, rank, h_row, b_trial, b_rank, b_column,
    rows: tl.constexpr, columns: tl.constexpr, tiles: tl.constexpr, ranks: tl.constexpr, parts: tl.constexpr,
):  # fmt: skip
    """y[k, i, c] += sum over j of h[k, i, j] b[k, j, c]; ``parts`` of ``ranks`` each."""
    trial = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    j = tl.arange(0, ranks)
    h += (trial * count + i[:, None]) * h_row
    b += trial * b_trial
    first = tl.load(h + j[None, :], mask=(i[:, None] < count) & (j[None, :] < rank), other=0.0)
    for tile in range(tiles):
        c = (tl.program_id(1) * tiles + tile) * columns + tl.arange(0, columns)
        place = y + (trial * count + i[:, None]) * height + c[None, :]
        inside = (i[:, None] < count) & (c[None, :] < height)
        total = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        factor = tl.load(
            b + j[:, None] * b_rank + c[None, :] * b_column,
            mask=(c[None, :] < height) & (j[:, None] < rank), other=0.0,
        )  # fmt: skip
        total = tl.dot(first, factor, total)
        for number in tl.static_range(1, parts):
            k = number * ranks + j
            part = tl.load(h + k[None, :], mask=(i[:, None] < count) & (k[None, :] < rank), other=0.0)
            factor = tl.load(
                b + k[:, None] * b_rank + c[None, :] * b_column,
                mask=(c[None, :] < height) & (k[:, None] < rank), other=0.0,
            )  # fmt: skip
            total = tl.dot(part, factor, total)
        tl.store(place, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _outer(
    h, x, out, count, width, rank, h_row, out_trial, out_rank, out_column,
    rows: tl.constexpr, columns: tl.constexpr, ranks: tl.constexpr,
):  # fmt: skip
    """out[k, j, c] = sum over i of h[k, i, j] x[k, i, c]."""
    trial = tl.program_id(2).to(tl.int64)
    c = tl.program_id(0) * columns + tl.arange(0, columns)
    j = tl.program_id(1) * ranks + tl.arange(0, ranks)
    h += trial * count * h_row
    x += trial * count * width
    total = tl.zeros((columns, ranks), dtype=tl.float32)
    for start in range(0, count, rows):
        i = start + tl.arange(0, rows)
        part = tl.load(
            x + i[:, None].to(tl.int64) * width + c[None, :],
            mask=(i[:, None] < count) & (c[None, :] < width), other=0.0,
        )  # fmt: skip
        down = tl.load(
            h + i[:, None].to(tl.int64) * h_row + j[None, :],
            mask=(i[:, None] < count) & (j[None, :] < rank), other=0.0,
        )  # fmt: skip
        total = tl.dot(tl.trans(part), down, total)
    place = trial * out_trial + j[None, :] * out_rank + c[:, None] * out_column
    tl.store(out + place, total.to(out.dtype.element_ty), mask=(c[:, None] < width) & (j[None, :] < rank))


def reduce(x: Tensor, a: Tensor, into: Tensor) -> None:
    """``into = x a^T``: ``x`` [K, T, n] contiguous, ``a`` [K, r, n] of any strides, ``into`` [K, T, r] a part of the
    columns of a contiguous [K, T, R].
    """
    trials, count, width = x.shape
    rank = a.shape[1]
    ranks = ranks_of(rank)
    rows, columns = (32, 128) if count <= 1024 else (64, 128)
    grid = (triton.cdiv(count, rows), triton.cdiv(rank, ranks), trials)
    _reduce[grid](  # pyright: ignore[reportIndexIssue]  # a kernel's grid
        x, a, into, count, width, rank, *a.stride(), into.stride(1), rows, columns, ranks, num_warps=4, num_stages=4
    )


def expand(y: Tensor, h: Tensor, b: Tensor) -> None:
    """``y += h b``: ``y`` [K, T, m] contiguous, ``h`` [K, T, r] a part of the columns of a contiguous [K, T, R], ``b``
    [K, r, m] of any strides.
    """
    trials, count, height = y.shape
    rank = b.shape[1]
    ranks = ranks_of(rank)
    rows, columns, tiles = 64, 64, 3
    grid = (triton.cdiv(count, rows), triton.cdiv(height, tiles * columns), trials)
    _expand[grid](  # pyright: ignore[reportIndexIssue]  # the same
        h, b, y, count, height, rank, h.stride(1), *b.stride(), rows, columns, tiles, ranks, triton.cdiv(rank, ranks),
        num_warps=4,
    )  # fmt: skip


def outer(h: Tensor, x: Tensor, into: Tensor) -> None:
    """``into = h^T x``: ``h`` [K, T, r] a part of the columns of a contiguous [K, T, R], ``x`` [K, T, n] contiguous,
    ``into`` [K, r, n] of any strides.
    """
    trials, count, width = x.shape
    rank = h.shape[2]
    ranks = ranks_of(rank)
    rows, columns = 64, 64
    grid = (triton.cdiv(width, columns), triton.cdiv(rank, ranks), trials)
    _outer[grid](  # pyright: ignore[reportIndexIssue]  # the same
        h, x, into, count, width, rank, h.stride(1), *into.stride(), rows, columns, ranks, num_warps=4, num_stages=3
    )
