"""Sums of a residual stream and what a matrix gives with its update in float32, and their norm, on a GPU.

Apart, the update reads and writes what the sum then reads again: 4 bytes of the 12 that a number costs where a layer
adds to the stream, twice a layer.
"""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]  # the same
from torch import Tensor

#: Numbers that a program holds.
TILE = 4096


@triton.jit
def _forward(
    y, down, b, residual, weight, normed, total, count, width, b_trial, b_rank, b_column, eps,
    rank: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """total = round(y + sum over j of down[:, j] b[:, j]) + residual, and its norm as in :mod:`.norm`.

    A product in float32 of few ranks is done before its numbers are read: tensor cores would want 16 rows at a time.
    """
    trial = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    c = tl.arange(0, columns)
    place = (trial * count + i[:, None]) * width + c[None, :]
    inside = (i[:, None] < count) & (c[None, :] < width)
    down += (trial * count + i) * rank
    b += trial * b_trial + c * b_column
    update = tl.zeros((rows, columns), dtype=tl.float32)
    for j in tl.static_range(rank):
        part = tl.load(down + j, mask=i < count, other=0.0)
        factor = tl.load(b + j * b_rank, mask=c < width, other=0.0)
        update += part[:, None] * factor[None, :]
    states = tl.load(y + place, mask=inside, other=0.0).to(tl.float32) + update
    states = states.to(y.dtype.element_ty).to(tl.float32)
    added = (states + tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)).to(total.dtype.element_ty)
    tl.store(total + place, added, mask=inside)
    states = added.to(tl.float32)
    scale = tl.rsqrt(tl.sum(states * states, axis=1) / width + eps)
    rounded = (states * scale[:, None]).to(normed.dtype.element_ty).to(tl.float32)
    w = tl.load(weight + c, mask=c < width, other=0.0).to(tl.float32)
    tl.store(normed + place, (rounded * w[None, :]).to(normed.dtype.element_ty), mask=inside)


def add_updated_norm(
    y: Tensor, down: Tensor, b: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """(The norm of the sum, the sum ``y`` + ``down`` b^T + ``residual``), [K, T, m], without a gradient.

    ``down`` [K, T, r] and ``b`` [K, m, r] are float32, ``b`` of any strides; everything else is contiguous and of one
    dtype, to which the update is rounded with ``y``, and then the sum, where they would be written.
    """
    assert down.dtype is b.dtype is torch.float32
    trials, count, width = y.shape
    normed, total = torch.empty_like(y), torch.empty_like(y)
    columns = triton.next_power_of_2(width)
    rows = max(1, TILE // columns)
    if count:
        _forward[(triton.cdiv(count, rows), trials)](  # pyright: ignore[reportIndexIssue]  # a kernel's grid
            y, down, b, residual, weight, normed, total, count, width, b.stride(0), b.stride(2), b.stride(1), eps,
            b.shape[2], rows, columns, num_warps=4,
        )  # fmt: skip
    return normed, total
