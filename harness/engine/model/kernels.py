"""Triton kernels for scoring on a GPU: updates in float32 on states of 16 bits, and likelihoods of logits.

Written out in torch, an update of a matrix [m, n] moves 14 (n + m) bytes a token: float copies of what goes in and of
the update, both read again.  Here it is 2 n + 4 m, and the products run on tensor cores (three TF32 products stand for
one of float32, which leaves 2^-22 of a term).  Of logits everything is read in one pass, where a log-softmax in
float32 and an argmax take five.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Rows of a trial, and columns of a matrix, that a program works on.
ROWS, COLUMNS = 64, 64
#: Ranks that a program keeps; larger ones are taken in parts.
RANKS = 64
#: Logits of a place that are looked at together.
LOGITS = 4096


@triton.jit
def _down(
    x, a, down, count, width, rank, a_trial, precision: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, ranks: tl.constexpr,
):  # fmt: skip
    """down[k, i, j] = sum over c of x[k, i, c] a[k, j, c]."""
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
        total = tl.dot(part.to(tl.float32), factor, total, input_precision=precision)
    place = (trial * count + i[:, None]) * rank + j[None, :]
    tl.store(down + place, total, mask=(i[:, None] < count) & (j[None, :] < rank))


@triton.jit
def _up(
    down, b, y, count, height, rank, b_trial, precision: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, ranks: tl.constexpr,
):  # fmt: skip
    """y[k, i, c] += sum over j of down[k, i, j] b[k, c, j], in float32, rounded once."""
    trial = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    c = tl.program_id(1) * columns + tl.arange(0, columns)
    down += trial * count * rank
    b += trial * b_trial
    total = tl.zeros((rows, columns), dtype=tl.float32)
    for start in range(0, rank, ranks):
        j = start + tl.arange(0, ranks)
        part = tl.load(
            down + i[:, None].to(tl.int64) * rank + j[None, :],
            mask=(i[:, None] < count) & (j[None, :] < rank), other=0.0,
        )  # fmt: skip
        factor = tl.load(
            b + c[None, :] * rank + j[:, None], mask=(c[None, :] < height) & (j[:, None] < rank), other=0.0
        )
        total = tl.dot(part, factor, total, input_precision=precision)
    place = y + (trial * count + i[:, None]) * height + c[None, :]
    inside = (i[:, None] < count) & (c[None, :] < height)
    total += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _likelihood(logits, peak, log_sum, likeliest, width, block: tl.constexpr):
    """Of a row: its largest value and where that stands first, and log(sum(exp(value - largest)))."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * width
    best = float("-inf")
    where = 0
    total = 0.0
    for start in range(0, width, block):
        c = start + tl.arange(0, block)
        values = tl.load(logits + c, mask=c < width, other=float("-inf")).to(tl.float32)
        high, at = tl.max(values, axis=0, return_indices=True, return_indices_tie_break_left=True)
        where = tl.where(high > best, start + at, where)
        higher = tl.maximum(best, high)
        total = total * tl.exp(best - higher) + tl.sum(tl.exp(values - higher), axis=0)
        best = higher
    tl.store(peak + row, best)
    tl.store(log_sum + row, tl.log(total))
    tl.store(likeliest + row, where)


def add_update(y: Tensor, x: Tensor, a: Tensor, b: Tensor) -> None:
    """``y += (x a^T) b^T`` in float32, rounded once into ``y``.

    ``x`` [K, T, n] and ``y`` [K, T, m] are contiguous, of any dtype; ``a`` [K, r, n] and ``b`` [K, m, r] are float32,
    contiguous within a trial.
    """
    trials, count, width = x.shape
    height, rank = b.shape[1:]
    a, b = _of_trials(a), _of_trials(b)
    down = torch.empty(trials, count, rank, dtype=torch.float32, device=x.device)
    ranks = min(RANKS, max(16, triton.next_power_of_2(rank)))
    precision, tiles = _precision(x), triton.cdiv(count, ROWS)
    _down[(tiles, triton.cdiv(rank, ranks), trials)](
        x, a, down, count, width, rank, a.stride(0), precision, ROWS, COLUMNS, ranks
    )  # fmt: skip
    _up[(tiles, triton.cdiv(height, COLUMNS), trials)](
        down, b, y, count, height, rank, b.stride(0), precision, ROWS, COLUMNS, ranks
    )  # fmt: skip


def likelihoods(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of logits [N, V]: (largest [N], log(sum(exp(logit - largest))) [N], first place of the largest [N])."""
    count, width = logits.shape
    peak, log_sum = torch.empty(2, count, dtype=torch.float32, device=logits.device)
    likeliest = torch.empty(count, dtype=torch.int64, device=logits.device)
    if count:
        _likelihood[(count,)](logits.contiguous(), peak, log_sum, likeliest, width, LOGITS)
    return peak, log_sum, likeliest


def _of_trials(factor: Tensor) -> Tensor:
    """A factor [K, p, q] whose trials may lie apart, each of them contiguous."""
    assert factor.dtype is torch.float32
    return factor if factor.stride()[1:] == (factor.shape[2], 1) else factor.contiguous()


def _precision(x: Tensor) -> str:
    return "tf32x3" if x.is_cuda else "ieee"  # the latter: in Triton's interpreter
