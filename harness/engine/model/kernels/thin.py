"""Gradients on the thin side of an update, of its states and of its B: what comes back is read once for both.

Two products of a library read it twice, and with a rank of 8 reading is all that they take.
"""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]  # the same
from torch import Tensor

from harness.engine.model.kernels.tiles import ranks_of

#: Tokens of a program, which goes through all columns, so many at a time.
ROWS, COLUMNS, WARPS = 64, 64, 4


@triton.jit
def _back(
    dy, b, down, d_down, d_b, trials, count, height, rank, b_trial, b_column, b_rank, down_trial, down_token,
    rows: tl.constexpr, columns: tl.constexpr, ranks: tl.constexpr,
):  # fmt: skip
    trial = tl.program_id(1).to(tl.int64)
    i, j = tl.program_id(0) * rows + tl.arange(0, rows), tl.arange(0, ranks)
    token, some = trial * count + i[:, None], i[:, None] < count
    thin, known = trial * down_trial + i[:, None] * down_token + j[None, :], some & (j[None, :] < rank)
    states = tl.load(down + thin, mask=known, other=0.0)
    total = tl.zeros((rows, ranks), dtype=tl.float32)
    d_b += (tl.program_id(0) * trials + trial) * height * rank
    for start in range(0, height, columns):
        c = start + tl.arange(0, columns)
        part = tl.load(dy + token * height + c[None, :], mask=some & (c[None, :] < height), other=0.0)
        factor = tl.load(
            b + trial * b_trial + c[:, None] * b_column + j[None, :] * b_rank,
            mask=(c[:, None] < height) & (j[None, :] < rank), other=0.0,
        )  # fmt: skip
        total = tl.dot(part, factor, total)
        into, inside = d_b + c[:, None] * rank + j[None, :], (c[:, None] < height) & (j[None, :] < rank)
        tl.store(into, tl.dot(tl.trans(part), states), mask=inside)
    tl.store(d_down + thin, total.to(d_down.dtype.element_ty), mask=known)


def thin_back(dy: Tensor, b: Tensor, down: Tensor, d_down: Tensor) -> Tensor:
    """Write ``dy b`` [K, T, r] into ``d_down``; what comes back is dy^T ``down`` [K, m, r].

    ``dy`` [K, T, m] is contiguous, ``b`` is [K, m, r]; ``down`` and ``d_down`` [K, T, r] may be columns of states that
    are equally wide.  All are of one dtype of 16 bits, and r is at most 64; sums are in float32, rounded once.
    """
    trials, count, height = dy.shape
    rank, blocks = b.shape[2], triton.cdiv(count, ROWS)
    assert down.stride() == d_down.stride()
    d_b = torch.empty(blocks, trials, height, rank, dtype=torch.float32, device=dy.device)
    _back[(blocks, trials)](  # pyright: ignore[reportIndexIssue]  # a kernel's grid
        dy, b, down, d_down, d_b, trials, count, height, rank, *b.stride(), *down.stride()[:2], ROWS, COLUMNS,
        ranks_of(rank), num_warps=WARPS,
    )  # fmt: skip
    return d_b.sum(0).to(dy.dtype)
