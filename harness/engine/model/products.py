"""Matrix products of bfloat16 on a CPU without instructions for them.

There torch multiplies number by number: a step of six trials of a 135M model takes an AMD EPYC with AVX2 more than a
minute, and 13 s in float32.  A product of two bfloat16 numbers is exact in float32, and wherever there are instructions
sums are kept in float32 and rounded once: done in float32 and rounded, a product is the same but for the order of its
sum.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

_linear = torch.nn.functional.linear


@cache
def multiplies_bfloat16() -> bool:
    """Whether torch has a fast way on this CPU, by its own judgement."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def widened(x: Tensor) -> Tensor:
    """``x``, in float32 where its device can't multiply its dtype."""
    slow = x.dtype is torch.bfloat16 and x.device.type == "cpu" and not multiplies_bfloat16()
    return x.float() if slow else x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + bias`` in the dtype of ``x``, rounded once."""
    return _linear(widened(x), widened(weight), None if bias is None else widened(bias)).to(x.dtype)


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """``x y`` in the dtype of ``x``, rounded once."""
    return torch.matmul(widened(x), widened(y)).to(x.dtype)


def bmm(x: Tensor, y: Tensor) -> Tensor:
    """The same of batches of matrices."""
    return torch.bmm(widened(x), widened(y)).to(x.dtype)


def put_bmm(out: Tensor, x: Tensor, y: Tensor) -> None:
    """The same into ``out``."""
    if widened(x) is x:
        torch.bmm(x, y, out=out)
    else:
        out.copy_(torch.bmm(widened(x), widened(y)))


def add_bmm(into: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``into + x y``, rounded once; ``into`` [K, n, m] is overwritten where it need not be widened."""
    return widened(into).baddbmm_(widened(x), widened(y)).to(into.dtype)
