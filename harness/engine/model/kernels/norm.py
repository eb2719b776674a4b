"""Root-mean-square norms with a frozen weight, forward and back, on a GPU.

liger-kernel's way back goes through rows one by one, as many as there are to a processor, for the sake of the weight's
gradient: 80 us for 9,840 rows of 576 on an H200, where reading and writing them takes 9.  Here no weight is trained.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]  # the same
from torch import Tensor

#: Numbers that a program holds.
TILE = 4096


@triton.jit
def _forward(x, weight, y, scale, count, width, eps, rows: tl.constexpr, columns: tl.constexpr):
    """y = weight * (x * scale), scale = 1 / sqrt(mean(x^2) + eps); x * scale is rounded before it is multiplied."""
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    c = tl.arange(0, columns)
    place = i[:, None].to(tl.int64) * width + c[None, :]
    inside = (i[:, None] < count) & (c[None, :] < width)
    states = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + c, mask=c < width, other=0.0).to(tl.float32)
    s = tl.rsqrt(tl.sum(states * states, axis=1) / width + eps)
    tl.store(scale + i, s, mask=i < count)
    rounded = (states * s[:, None]).to(y.dtype.element_ty).to(tl.float32)
    tl.store(y + place, (rounded * w[None, :]).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(dy, x, weight, scale, dx, count, width, rows: tl.constexpr, columns: tl.constexpr):
    """dx = scale * (g - n * mean(g * n)), g = dy * weight, n = x * scale."""
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    c = tl.arange(0, columns)
    place = i[:, None].to(tl.int64) * width + c[None, :]
    inside = (i[:, None] < count) & (c[None, :] < width)
    w = tl.load(weight + c, mask=c < width, other=0.0).to(tl.float32)
    s = tl.load(scale + i, mask=i < count, other=0.0)
    normed = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * s[:, None]
    g = tl.load(dy + place, mask=inside, other=0.0).to(tl.float32) * w[None, :]
    shared = tl.sum(g * normed, axis=1) / width
    tl.store(dx + place, (s[:, None] * (g - normed * shared[:, None])).to(dx.dtype.element_ty), mask=inside)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        width = x.shape[-1]
        count = x.numel() // width
        scale = torch.empty(count, dtype=torch.float32, device=x.device)
        if count:
            rows, columns = _tile(width)
            _forward[(triton.cdiv(count, rows),)](  # pyright: ignore[reportIndexIssue]  # a kernel's grid
                x, weight, y, scale, count, width, eps, rows, columns, num_warps=4
            )
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        dy = dy.contiguous()
        dx = torch.empty_like(x)
        width = x.shape[-1]
        count = x.numel() // width
        if count:
            rows, columns = _tile(width)
            _backward[(triton.cdiv(count, rows),)](  # pyright: ignore[reportIndexIssue]  # the same
                dy, x, weight, scale, dx, count, width, rows, columns, num_warps=4
            )
        return dx, None, None


def _tile(width: int) -> tuple[int, int]:
    """(rows, columns) of a program: whole rows."""
    columns = triton.next_power_of_2(width)
    return max(1, TILE // columns), columns


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * (x / sqrt(mean(x^2) + eps)) [..., n] for a frozen weight [n], the quotient rounded, as Llama's norm."""
    return _Norm.apply(x, weight, eps)
