"""Cross-entropy of logits and its gradient, which takes their place: they are read twice and written once.

Written out in torch, a number of the logits costs 32 bytes on its way there and back: a copy in float32, a log-softmax,
its gradient, and the copy's.  Here it costs 4, since a row that has just been read comes from the cache.
"""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]  # the same
from torch import Tensor

from harness.engine.model.kernels.tiles import LOGITS, LOWEST, with_block


@triton.jit
def _cross_entropy(logits, target, weight, losses, width, block: tl.constexpr):
    """log(sum(exp(logits))) - logits[target], and weight * (softmax(logits) - [c = target]) in place of the logits."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * width
    right = tl.load(target + row)
    given = tl.load(logits + right).to(tl.float32)
    best = LOWEST
    total = 0.0
    for start in range(0, width, block):
        c = start + tl.arange(0, block)
        values = tl.load(logits + c, mask=c < width, other=float("-inf")).to(tl.float32)
        best, total = with_block(best, total, values, tl.max(values, axis=0))
    log_sum = best + tl.log(total)
    tl.store(losses + row, log_sum - given)
    share = tl.load(weight + row)
    for start in range(0, width, block):
        c = start + tl.arange(0, block)
        values = tl.load(logits + c, mask=c < width, other=float("-inf")).to(tl.float32)
        gradient = share * (tl.exp(values - log_sum) - tl.where(c == right, 1.0, 0.0))
        tl.store(logits + c, gradient.to(logits.dtype.element_ty), mask=c < width)


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """-log p(``target``) [N] in float32 for contiguous ``logits`` [N, V], which become the gradient of weight * loss.

    ``target`` is [N] in int64 and ``weight`` [N] in float32; sums are in float32, and the gradient is rounded once.
    """
    count, width = logits.shape
    losses = torch.empty(count, dtype=torch.float32, device=logits.device)
    if count:
        _cross_entropy[(count,)](  # pyright: ignore[reportIndexIssue]  # a kernel's grid
            logits, target, weight, losses, width, LOGITS, num_warps=8
        )
    return losses
