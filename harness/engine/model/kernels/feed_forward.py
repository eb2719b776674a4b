"""What stands between the base products of a feed-forward layer in training, forward and back, on a GPU.

The widest states of a model go through here: they are read and written once, and everything thin is done on the way.
Forward that is the updates of gate and up, their product, and the states behind A of the layer below; back it is the
update of the gradient that comes from there, and the gradients of all factors on this side of the base products.
"""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]  # the same
from torch import Tensor

from harness.engine.model.kernels.tiles import RANKS, ranks_of

#: Tokens and columns of a tile, and tiles that a program goes through, forward and back.
FORWARD, BACKWARD = (64, 64, 6), (128, 32, 12)
WARPS = 8
#: Largest rank that is taken.
MOST_RANKS = RANKS


@triton.jit
def _updated(y, place, inside, down, factor):
    """What a matrix gives with its update, rounded as where it is written."""
    total = tl.dot(down, factor, tl.load(y + place, mask=inside, other=0.0).to(tl.float32))
    return total.to(y.dtype.element_ty).to(tl.float32)


@triton.jit
def _forward(
    gate, up, down, b_gate, b_up, a_next, out, next_down, trials, count, height, rank, b_trial, b_column, b_rank,
    a_trial, a_rank, rows: tl.constexpr, columns: tl.constexpr, tiles: tl.constexpr, ranks: tl.constexpr,
):  # fmt: skip
    trial = tl.program_id(2).to(tl.int64)
    i, j = tl.program_id(0) * rows + tl.arange(0, rows), tl.arange(0, ranks)
    token, some = trial * count + i[:, None], i[:, None] < count
    known = some & (j[None, :] < rank)
    of_gate = tl.load(down + token * 2 * rank + j[None, :], mask=known, other=0.0)
    of_up = tl.load(down + token * 2 * rank + rank + j[None, :], mask=known, other=0.0)
    total = tl.zeros((rows, ranks), dtype=tl.float32)
    for tile in range(tiles):
        c = (tl.program_id(1) * tiles + tile) * columns + tl.arange(0, columns)
        place, inside = token * height + c[None, :], some & (c[None, :] < height)
        at, there = trial * b_trial + j[:, None] * b_rank + c[None, :] * b_column, (j[:, None] < rank) & (c < height)
        opening = _updated(gate, place, inside, of_gate, tl.load(b_gate + at, mask=there, other=0.0))
        passed = _updated(up, place, inside, of_up, tl.load(b_up + at, mask=there, other=0.0))
        opened = (opening * tl.sigmoid(opening)).to(out.dtype.element_ty).to(tl.float32)
        made = (opened * passed).to(out.dtype.element_ty)
        tl.store(out + place, made, mask=inside)
        a = tl.load(a_next + trial * a_trial + j[:, None] * a_rank + c[None, :], mask=there, other=0.0)
        total = tl.dot(made, tl.trans(a), total)
    part = tl.program_id(1) * trials * count + token
    tl.store(next_down + part * rank + j[None, :], total, mask=known)


@triton.jit
def _backward(
    d_out, d_next, gate, up, down, b_gate, b_up, a_next, d_gate, d_up, d_down, d_b, d_a, trials, count, height, rank,
    b_trial, b_column, b_rank, a_trial, a_rank, rows: tl.constexpr, columns: tl.constexpr, tiles: tl.constexpr,
    ranks: tl.constexpr,
):  # fmt: skip
    trial = tl.program_id(2).to(tl.int64)
    i, j = tl.program_id(0) * rows + tl.arange(0, rows), tl.arange(0, ranks)
    token, some = trial * count + i[:, None], i[:, None] < count
    known = some & (j[None, :] < rank)
    of_gate = tl.load(down + token * 2 * rank + j[None, :], mask=known, other=0.0)
    of_up = tl.load(down + token * 2 * rank + rank + j[None, :], mask=known, other=0.0)
    of_next = tl.load(d_next + token * rank + j[None, :], mask=known, other=0.0)
    total_gate = tl.zeros((rows, ranks), dtype=tl.float32)
    total_up = tl.zeros((rows, ranks), dtype=tl.float32)
    block = (tl.program_id(0) * trials + trial) * height * rank  # of a factor's gradient, from these tokens
    blocks = tl.num_programs(0).to(tl.int64) * trials * height * rank
    for tile in range(tiles):
        c = (tl.program_id(1) * tiles + tile) * columns + tl.arange(0, columns)
        place, inside = token * height + c[None, :], some & (c[None, :] < height)
        at, there = trial * b_trial + j[:, None] * b_rank + c[None, :] * b_column, (j[:, None] < rank) & (c < height)
        factor_gate = tl.load(b_gate + at, mask=there, other=0.0)
        factor_up = tl.load(b_up + at, mask=there, other=0.0)
        a = tl.load(a_next + trial * a_trial + j[:, None] * a_rank + c[None, :], mask=there, other=0.0)
        opening = _updated(gate, place, inside, of_gate, factor_gate)
        passed = _updated(up, place, inside, of_up, factor_up)
        change = tl.dot(of_next, a, tl.load(d_out + place, mask=inside, other=0.0).to(tl.float32))
        open_by = tl.sigmoid(opening)
        opened = opening * open_by
        made = (opened.to(gate.dtype.element_ty).to(tl.float32) * passed).to(gate.dtype.element_ty)
        of_a = tl.dot(tl.trans(of_next), made)
        tl.store(d_a + block + j[:, None] * height + c[None, :], of_a, mask=there)
        to_up = (change * opened).to(gate.dtype.element_ty)
        tl.store(d_up + place, to_up, mask=inside)
        to_gate = (change * passed * (open_by + opened * (1 - open_by))).to(gate.dtype.element_ty)
        tl.store(d_gate + place, to_gate, mask=inside)
        total_gate = tl.dot(to_gate, tl.trans(factor_gate), total_gate)
        total_up = tl.dot(to_up, tl.trans(factor_up), total_up)
        into, thin = d_b + block + c[:, None] * rank + j[None, :], (c[:, None] < height) & (j[None, :] < rank)
        tl.store(into, tl.dot(tl.trans(to_gate), of_gate), mask=thin)
        tl.store(into + blocks, tl.dot(tl.trans(to_up), of_up), mask=thin)
    part = d_down + (tl.program_id(1) * trials * count + token) * 2 * rank + j[None, :]
    tl.store(part, total_gate, mask=known)
    tl.store(part + rank, total_up, mask=known)


def feed_forward(
    gate: Tensor, up: Tensor, down: Tensor, b_gate: Tensor, b_up: Tensor, a_next: Tensor
) -> tuple[Tensor, Tensor]:
    """(silu(``gate`` + down_gate b_gate^T) * (``up`` + down_up b_up^T) [K, T, m], that times ``a_next``^T [K, T, r]).

    ``gate`` and ``up`` [K, T, m] are what the base gives, ``down`` [K, T, 2 r] has the states behind both A beside each
    other; ``b_gate`` and ``b_up`` are [K, m, r], ``a_next`` [K, r, m] is the A of the layer that reads the result.
    All are of one dtype of 16 bits, and r is at most ``MOST_RANKS``; sums are in float32, rounded where a matrix is.
    """
    trials, count, height = gate.shape
    tile = FORWARD
    out = torch.empty_like(gate)
    b_gate, b_up = _alike(b_gate, b_up)
    chunks = triton.cdiv(height, tile[1] * tile[2])
    next_down = torch.empty(chunks, trials, count, down.shape[2] // 2, dtype=torch.float32, device=gate.device)
    _forward[(triton.cdiv(count, tile[0]), chunks, trials)](  # pyright: ignore[reportIndexIssue]  # a kernel's grid
        gate, up, down, b_gate, b_up, a_next, out, next_down, *_about(gate, b_gate, a_next), *tile,
        ranks_of(down.shape[2] // 2), num_warps=WARPS,
    )  # fmt: skip
    return out, next_down.sum(0).to(gate.dtype)


def feed_forward_back(
    d_out: Tensor, d_next: Tensor, gate: Tensor, up: Tensor, down: Tensor, b_gate: Tensor, b_up: Tensor, a_next: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor, tuple[Tensor, Tensor], Tensor]:
    """Gradients ((of what gate and up give, [K, T, m] each), of ``down``, (of both B), of ``a_next``).

    ``d_out`` [K, T, m] is the gradient of the result but for what comes through ``a_next``, and ``d_next`` [K, T, r]
    that of the states behind it.
    """
    trials, count, height = gate.shape
    tile, rank = BACKWARD, d_next.shape[2]
    d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
    b_gate, b_up = _alike(b_gate, b_up)
    blocks, chunks = triton.cdiv(count, tile[0]), triton.cdiv(height, tile[1] * tile[2])
    room = {"dtype": torch.float32, "device": gate.device}
    d_down, d_a = torch.empty(chunks, *down.shape, **room), torch.empty(blocks, trials, rank, height, **room)
    d_b = torch.empty(2, blocks, trials, height, rank, **room)
    _backward[(blocks, chunks, trials)](  # pyright: ignore[reportIndexIssue]  # the same
        d_out, d_next, gate, up, down, b_gate, b_up, a_next, d_gate, d_up, d_down, d_b, d_a,
        *_about(gate, b_gate, a_next), *tile, ranks_of(rank), num_warps=WARPS,
    )  # fmt: skip
    of_gate, of_up = d_b.sum(1).to(gate.dtype)
    return (d_gate, d_up), d_down.sum(0).to(gate.dtype), (of_gate, of_up), d_a.sum(0).to(gate.dtype)


def _alike(b_gate: Tensor, b_up: Tensor) -> tuple[Tensor, Tensor]:
    """Of the same strides."""
    return (b_gate, b_up) if b_gate.stride() == b_up.stride() else (b_gate.contiguous(), b_up.contiguous())


def _about(gate: Tensor, b: Tensor, a: Tensor) -> tuple[int, ...]:
    """(K, T, m, r, strides of a B, strides of the A behind)."""
    assert a.stride(2) == 1
    return *gate.shape, b.shape[2], *b.stride(), *a.stride()[:2]
