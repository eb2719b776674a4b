"""Updates in float32 on states of 16 bits, as PEFT infers and lm-eval scores, on a GPU.

Written out in torch, an update of a matrix [m, n] moves 14 (n + m) bytes a token: float copies of what goes in and of
the update, both read again.  Here it is 2 n + 4 m, and matrices that read the same states read them once.  The products
run on tensor cores: three of bfloat16 stand for one with a state of bfloat16, which leaves 2^-24 of a term, and three
of TF32 for one of float32, which leaves 2^-22.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]  # the same
from torch import Tensor

from harness.engine.model.kernels.tiles import cut_in_three, ranks_of


@triton.jit
def _down(
    x, a, down, count, width, rank, a_trial, exact: tl.constexpr, cut: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, ranks: tl.constexpr,
):  # fmt: skip
    """down[k, i, j] = sum over c of x[k, i, c] a[k, j, c]; ``exact``: x is bfloat16, and a is cut into three of it.

    ``cut``: so is what comes out, down[k, i, 0 to 2, j].
    """
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
            a + j[None, :] * width + c[:, None], mask=(j[None, :] < rank) & (c[:, None] < width), other=0.0
        )
        if exact:
            high, middle, low = cut_in_three(factor)
            total = tl.dot(part, low, total)
            total = tl.dot(part, middle, total)
            total = tl.dot(part, high, total)
        else:
            total = tl.dot(part.to(tl.float32), factor, total, input_precision="ieee")
    inside = (i[:, None] < count) & (j[None, :] < rank)
    if cut:
        high, middle, low = cut_in_three(total)
        place = (trial * count + i[:, None]) * 3 * rank + j[None, :]
        tl.store(down + place, high, mask=inside)
        tl.store(down + place + rank, middle, mask=inside)
        tl.store(down + place + 2 * rank, low, mask=inside)
    else:
        tl.store(down + (trial * count + i[:, None]) * rank + j[None, :], total, mask=inside)


@triton.jit
def _up(
    down, b, y, count, height, rank, down_row, precision: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, tiles: tl.constexpr, ranks: tl.constexpr, parts: tl.constexpr,
):  # fmt: skip
    """y[k, i, c] += sum over j of down[k, i, j] b[k, j, c], in float32, rounded once; ``parts`` of ``ranks`` each."""
    trial = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    j = tl.arange(0, ranks)
    down += trial * count * down_row + i[:, None].to(tl.int64) * down_row
    b += trial * rank * height
    first = tl.load(down + j[None, :], mask=(i[:, None] < count) & (j[None, :] < rank), other=0.0)
    for tile in range(tiles):
        c = (tl.program_id(1) * tiles + tile) * columns + tl.arange(0, columns)
        factor = tl.load(
            b + j[:, None] * height + c[None, :], mask=(c[None, :] < height) & (j[:, None] < rank), other=0.0
        )
        total = tl.dot(first, factor, input_precision=precision)
        for number in tl.static_range(1, parts):
            k = number * ranks + j
            part = tl.load(down + k[None, :], mask=(i[:, None] < count) & (k[None, :] < rank), other=0.0)
            factor = tl.load(
                b + k[:, None] * height + c[None, :], mask=(c[None, :] < height) & (k[:, None] < rank), other=0.0
            )
            total = tl.dot(part, factor, total, input_precision=precision)
        place = y + (trial * count + i[:, None]) * height + c[None, :]
        inside = (i[:, None] < count) & (c[None, :] < height)
        total += tl.load(place, mask=inside, other=0.0).to(tl.float32)
        tl.store(place, total.to(y.dtype.element_ty), mask=inside)


def down_states(x: Tensor, a: Tensor) -> Tensor:
    """``x a^T`` [K, T, r] in float32: states [K, T, n] are contiguous, of any dtype, and ``a`` [K, r, n] is float32."""
    down = torch.empty(*x.shape[:2], a.shape[1], dtype=torch.float32, device=x.device)
    _put_down(x, a, down, cut=False)
    return down


def down_in_three(x: Tensor, a: Tensor) -> Tensor:
    """The same as a sum of three of bfloat16, [K, T, 3, r]."""
    down = torch.empty(*x.shape[:2], 3, a.shape[1], dtype=torch.bfloat16, device=x.device)
    _put_down(x, a, down, cut=True)
    return down


def _put_down(x: Tensor, a: Tensor, down: Tensor, *, cut: bool) -> None:
    trials, count, width = x.shape
    rank = a.shape[1]
    assert a.dtype is torch.float32
    if a.stride()[1:] != (width, 1):
        a = a.contiguous()
    ranks = ranks_of(rank)
    # Tiles that were fastest on an H200, of 36 and 64, at rank 8 and the shapes of a 135M model
    grid = (triton.cdiv(count, 128), triton.cdiv(rank, ranks), trials)
    _down[grid](  # pyright: ignore[reportIndexIssue]  # a kernel's grid
        x, a, down, count, width, rank, a.stride(0), x.dtype is torch.bfloat16 and x.is_cuda, cut, 128, 64, ranks,
        num_warps=8, num_stages=4,
    )  # fmt: skip


def add_updates(ys: Sequence[Tensor], x: Tensor, a: Tensor, bs: Sequence[Tensor]) -> None:
    """``y_i += (x a_i^T) b_i^T`` for matrices that read the same states: in float32, rounded once into ``y_i``.

    ``x`` [K, T, n] and every ``y_i`` [K, T, m_i] are contiguous, of any dtype; ``a`` [K, r_1 + r_2 + ..., n] has the
    ``a_i`` below each other and ``bs`` are [K, m_i, r_i], both float32.
    """
    down, start = down_states(x, a), 0
    for y, b in zip(ys, bs, strict=True):
        assert b.dtype is torch.float32
        trials, count, height = y.shape
        rank = b.shape[2]
        ranks = ranks_of(rank)
        grid = (triton.cdiv(count, 32), triton.cdiv(height, 3 * 64), trials)
        _up[grid](  # pyright: ignore[reportIndexIssue]  # the same
            down[:, :, start:], b.mT.contiguous(),  # read along its rows: a third of the time
            y, count, height, rank, down.shape[2], "tf32x3" if x.is_cuda else "ieee", 32, 64, 3,
            ranks, triton.cdiv(rank, ranks),
        )  # fmt: skip
        start += rank
