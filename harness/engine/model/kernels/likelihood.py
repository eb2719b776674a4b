"""Likelihoods of logits: everything is read in one pass, where a log-softmax in float32 and an argmax take five."""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]  # the same
from torch import Tensor

from harness.engine.model.kernels.tiles import LOGITS, LOWEST, with_block


@triton.jit
def _likelihood(logits, peak, log_sum, likeliest, width, block: tl.constexpr):
    """Of a row: its largest value and where that stands first, and log(sum(exp(value - largest)))."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * width
    best = LOWEST
    where = 0
    total = 0.0
    for start in range(0, width, block):
        c = start + tl.arange(0, block)
        values = tl.load(logits + c, mask=c < width, other=float("-inf")).to(tl.float32)
        high, at = tl.max(values, axis=0, return_indices=True, return_indices_tie_break_left=True)
        where = tl.where(high > best, start + at, where)
        best, total = with_block(best, total, values, high)
    tl.store(peak + row, best)
    tl.store(log_sum + row, tl.log(total))
    tl.store(likeliest + row, where)


def likelihoods(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of logits [N, V]: (largest [N], log(sum(exp(logit - largest))) [N], first place of the largest [N])."""
    count, width = logits.shape
    peak, log_sum = torch.empty(2, count, dtype=torch.float32, device=logits.device)
    likeliest = torch.empty(count, dtype=torch.int64, device=logits.device)
    if count:
        _likelihood[(count,)](  # pyright: ignore[reportIndexIssue]  # a kernel's grid
            logits.contiguous(), peak, log_sum, likeliest, width, LOGITS
        )
    return peak, log_sum, likeliest
