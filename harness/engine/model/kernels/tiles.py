"""What several kernels share: sizes of tiles, float32 in parts of bfloat16, and sums of exponentials."""

from __future__ import annotations

import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]  # the same

#: Ranks that a program keeps; larger ones are taken in parts.
RANKS = 64

#: Logits of a token that are looked at together.
LOGITS = 4096

#: Where the largest logit starts: finite, since -inf - -inf is NaN, of a first block that is all -inf.
LOWEST = tl.constexpr(-3.4028234663852886e38)


def ranks_of(rank: int) -> int:
    """Ranks that a program keeps: a power of two from 16, the least of tensor cores."""
    return min(RANKS, max(16, triton.next_power_of_2(rank)))


@triton.jit
def cut_in_three(x):
    """``x`` in float32 as a sum of three of bfloat16."""
    high = x.to(tl.bfloat16)
    rest = x - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    return high, middle, (rest - middle.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def with_block(best, total, values, high):
    """(largest, sum(exp(value - largest))) of what came before, and of ``values``, of which ``high`` is the largest."""
    higher = tl.maximum(best, high)
    return higher, total * tl.exp(best - higher) + tl.sum(tl.exp(values - higher), axis=0)
