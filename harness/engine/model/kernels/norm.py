"""Root-mean-square norms with a frozen weight, of states or of a sum of two, forward and back, on a GPU.

liger-kernel's way back goes through rows one by one, as many as there are to a processor, for the sake of the weight's
gradient: 80 us for 9,840 rows of 576 on an H200, where reading and writing them takes 9.  Here no weight is trained.

Where states are added to a residual stream before they are normed, the norm need not read the sum again, nor autograd
add what comes back along the stream: 54 us an addition of 65,536 tokens, two a layer and way.
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
def _forward(x, residual, total, weight, y, scale, count, width, eps, rows: tl.constexpr, columns: tl.constexpr):
    """y = weight * (x * scale), scale = 1 / sqrt(mean(x^2) + eps); x * scale is rounded before it is multiplied.

    Where there is a residual it is added to x first, rounded and kept as the total.
    """
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    c = tl.arange(0, columns)
    place = i[:, None].to(tl.int64) * width + c[None, :]
    inside = (i[:, None] < count) & (c[None, :] < width)
    states = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        states += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        added = states.to(total.dtype.element_ty)
        tl.store(total + place, added, mask=inside)
        states = added.to(tl.float32)
    w = tl.load(weight + c, mask=c < width, other=0.0).to(tl.float32)
    s = tl.rsqrt(tl.sum(states * states, axis=1) / width + eps)
    tl.store(scale + i, s, mask=i < count)
    rounded = (states * s[:, None]).to(y.dtype.element_ty).to(tl.float32)
    tl.store(y + place, (rounded * w[None, :]).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(dy, passed, x, weight, scale, dx, count, width, rows: tl.constexpr, columns: tl.constexpr):
    """dx = scale * (g - n * mean(g * n)), g = dy * weight, n = x * scale; plus what is passed along, if anything is."""
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    c = tl.arange(0, columns)
    place = i[:, None].to(tl.int64) * width + c[None, :]
    inside = (i[:, None] < count) & (c[None, :] < width)
    w = tl.load(weight + c, mask=c < width, other=0.0).to(tl.float32)
    s = tl.load(scale + i, mask=i < count, other=0.0)
    normed = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * s[:, None]
    g = tl.load(dy + place, mask=inside, other=0.0).to(tl.float32) * w[None, :]
    shared = tl.sum(g * normed, axis=1) / width
    back = s[:, None] * (g - normed * shared[:, None])
    if passed is not None:
        back += tl.load(passed + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + place, back.to(dx.dtype.element_ty), mask=inside)


class _Norm(torch.autograd.Function):
    """The norm of x, or that of x + residual and the sum itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> Any:
        x, residual = x.contiguous(), residual if residual is None else residual.contiguous()
        total, y = x if residual is None else torch.empty_like(x), torch.empty_like(x)
        width = x.shape[-1]
        count = x.numel() // width
        scale = torch.empty(count, dtype=torch.float32, device=x.device)
        if count:
            rows, columns = _tile(width)
            _forward[(triton.cdiv(count, rows),)](  # pyright: ignore[reportIndexIssue]  # a kernel's grid
                x, residual, total, weight, y, scale, count, width, eps, rows, columns, num_warps=4
            )
        ctx.set_materialize_grads(False)  # nothing comes to the last sum but through its norm
        ctx.save_for_backward(total, weight, scale)
        return y if residual is None else (y, total)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, passed: Tensor | None = None) -> tuple[Tensor | None, ...]:
        total, weight, scale = ctx.saved_tensors
        dx = passed
        if dy is not None:
            dx = torch.empty_like(total)
            width = total.shape[-1]
            count = total.numel() // width
            if count:
                rows, columns = _tile(width)
                dy, passed = dy.contiguous(), passed if passed is None else passed.contiguous()
                _backward[(triton.cdiv(count, rows),)](  # pyright: ignore[reportIndexIssue]  # the same
                    dy, passed, total, weight, scale, dx, count, width, rows, columns, num_warps=4
                )
        return dx, dx if ctx.needs_input_grad[1] else None, None, None


def _tile(width: int) -> tuple[int, int]:
    """(rows, columns) of a program: whole rows."""
    columns = triton.next_power_of_2(width)
    return max(1, TILE // columns), columns


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * (x / sqrt(mean(x^2) + eps)) [..., n] for a frozen weight [n], the quotient rounded, as Llama's norm."""
    return _Norm.apply(x, None, weight, eps)


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(The norm of the sum, the sum x + residual), the sum rounded before it is normed."""
    return _Norm.apply(x, residual, weight, eps)
