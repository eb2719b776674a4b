"""Causal attention within short rows that stand behind each other, forward and back, on a GPU.

Rows of different lengths need no padding: those of a trial are one sequence [M], and no row looks at another.  A
program holds a whole row with the keys of one group of heads, so that nothing is kept for the way back, where libraries
take three kernels and atomic additions: of 8 rows of 41 tokens of 30 trials (135M, an H200) cuDNN takes 190 us a layer.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]  # the same
from torch import Tensor


@triton.jit
def _weights(query, key, scale, seen):
    """Of a row's queries for its keys [T, T], in float32."""
    scores = tl.where(seen, tl.dot(query, tl.trans(key)) * scale, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    return weights / tl.sum(weights, axis=1)[:, None]


@triton.jit
def _clear(into, start, stop, token_stride, longest: tl.constexpr, width: tl.constexpr):
    """Zeros for the tokens of one head that are in no row."""
    c = tl.arange(0, width)
    for begin in range(start, stop, longest):
        t = begin + tl.arange(0, longest)
        place = into + t[:, None].to(tl.int64) * token_stride + c[None, :]
        tl.store(place, tl.zeros((longest, width), dtype=into.dtype.element_ty), mask=t[:, None] < stop)


@triton.jit
def _forward(
    q, k, v, o, starts, rows, tokens, scale, q_trial, q_head, q_token, k_trial, k_head, k_token,
    v_trial, v_head, v_token, o_trial, o_head, o_token, group: tl.constexpr, longest: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    trial, heads = (tl.program_id(0) // rows).to(tl.int64), tl.program_id(1)
    row = starts + trial * (rows + 1) + tl.program_id(0) % rows
    start = tl.load(row)
    count = (tl.load(row + 1) - start).to(tl.int32)
    t, c = tl.arange(0, longest), tl.arange(0, width)
    token, inside = start + t[:, None], t[:, None] < count
    seen = (t[:, None] >= t[None, :]) & (t[None, :] < count)
    key = tl.load(k + trial * k_trial + heads * k_head + token * k_token + c[None, :], mask=inside, other=0.0)
    value = tl.load(v + trial * v_trial + heads * v_head + token * v_token + c[None, :], mask=inside, other=0.0)
    for number in range(group):
        head = heads * group + number
        query = tl.load(q + trial * q_trial + head * q_head + token * q_token + c[None, :], mask=inside, other=0.0)
        weights = _weights(query, key, scale, seen)
        mixed = tl.dot(weights.to(value.dtype), value)
        into = o + trial * o_trial + head * o_head
        tl.store(into + token * o_token + c[None, :], mixed.to(value.dtype), mask=inside)
        if tl.program_id(0) % rows == rows - 1:
            _clear(into, (start + count).to(tl.int32), tokens, o_token, longest, width)


@triton.jit
def _backward(
    q, k, v, do, dq, dk, dv, starts, rows, tokens, scale, q_trial, q_head, q_token, k_trial, k_head, k_token,
    v_trial, v_head, v_token, do_trial, do_head, do_token, dq_trial, dq_head, dq_token, dk_trial, dk_head, dk_token,
    group: tl.constexpr, longest: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    trial, heads = (tl.program_id(0) // rows).to(tl.int64), tl.program_id(1)
    row = starts + trial * (rows + 1) + tl.program_id(0) % rows
    start = tl.load(row)
    count = (tl.load(row + 1) - start).to(tl.int32)
    t, c = tl.arange(0, longest), tl.arange(0, width)
    token, inside = start + t[:, None], t[:, None] < count
    seen = (t[:, None] >= t[None, :]) & (t[None, :] < count)
    key = tl.load(k + trial * k_trial + heads * k_head + token * k_token + c[None, :], mask=inside, other=0.0)
    value = tl.load(v + trial * v_trial + heads * v_head + token * v_token + c[None, :], mask=inside, other=0.0)
    to_key = tl.zeros((longest, width), dtype=tl.float32)
    to_value = tl.zeros((longest, width), dtype=tl.float32)
    for number in range(group):
        head = heads * group + number
        query = tl.load(q + trial * q_trial + head * q_head + token * q_token + c[None, :], mask=inside, other=0.0)
        down = tl.load(do + trial * do_trial + head * do_head + token * do_token + c[None, :], mask=inside, other=0.0)
        weights = _weights(query, key, scale, seen)
        to_value = tl.dot(tl.trans(weights.to(value.dtype)), down, to_value)
        to_weights = tl.dot(down, tl.trans(value))
        shared = tl.sum(weights * to_weights, axis=1)
        to_scores = (weights * (to_weights - shared[:, None]) * scale).to(value.dtype)
        to_key = tl.dot(tl.trans(to_scores), query, to_key)
        to_query = tl.dot(to_scores, key)
        into = dq + trial * dq_trial + head * dq_head
        tl.store(into + token * dq_token + c[None, :], to_query.to(value.dtype), mask=inside)
        if tl.program_id(0) % rows == rows - 1:
            _clear(into, (start + count).to(tl.int32), tokens, dq_token, longest, width)
    both = trial * dk_trial + heads * dk_head
    tl.store(dk + both + token * dk_token + c[None, :], to_key.to(value.dtype), mask=inside)
    tl.store(dv + both + token * dk_token + c[None, :], to_value.to(value.dtype), mask=inside)
    if tl.program_id(0) % rows == rows - 1:
        _clear(dk + both, (start + count).to(tl.int32), tokens, dk_token, longest, width)
        _clear(dv + both, (start + count).to(tl.int32), tokens, dk_token, longest, width)


class _RowAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float
    ) -> Tensor:
        query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
        mixed = _like(query)
        _forward[_grid(key, starts)](  # pyright: ignore[reportIndexIssue]  # a kernel's grid
            query, key, value, mixed, starts, starts.shape[1] - 1, query.shape[2], scale,
            *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *mixed.stride()[:3],
            *_tile(query, key, longest), num_warps=_warps(longest), num_stages=_stages(query, longest),
        )  # fmt: skip
        ctx.save_for_backward(query, key, value, starts)
        ctx.longest, ctx.scale = longest, scale
        return mixed

    @staticmethod
    def backward(ctx: Any, down: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query, key, value, starts = ctx.saved_tensors
        down = down if down.stride(3) == 1 else down.contiguous()
        to_query, to_key, to_value = _like(query), _like(key), _like(key)
        _backward[_grid(key, starts)](  # pyright: ignore[reportIndexIssue]  # the same
            query, key, value, down, to_query, to_key, to_value, starts, starts.shape[1] - 1,
            query.shape[2], ctx.scale,
            *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *down.stride()[:3], *to_query.stride()[:3],
            *to_key.stride()[:3], *_tile(query, key, ctx.longest), num_warps=_warps(ctx.longest),
            num_stages=_stages(query, ctx.longest),
        )  # fmt: skip
        return to_query, to_key, to_value, None, None, None


def _like(x: Tensor) -> Tensor:
    """Room for [K, heads, M, d], with the heads of a token beside each other."""
    trials, heads, count, width = x.shape
    return x.new_empty(trials, count, heads, width).transpose(1, 2)


def _grid(key: Tensor, starts: Tensor) -> tuple[int, int]:
    return (starts.shape[0] * (starts.shape[1] - 1), key.shape[1])


def _tile(query: Tensor, key: Tensor, longest: int) -> tuple[int, int, int]:
    """(heads that share a key, tokens, width) of a program."""
    return query.shape[1] // key.shape[1], max(16, triton.next_power_of_2(longest)), query.shape[3]


def _stages(query: Tensor, longest: int) -> int:
    """Heads whose states are read ahead: three fill the shared memory of an L4 where rows and heads are wide."""
    return 3 if longest * query.shape[3] <= 64 * 64 else 1


def _warps(longest: int) -> int:
    """Fastest for rows of 58 on an H200: 16 us forward and 37 back for 240 of them, where 8 warps take 27 and 75."""
    return 4 if longest <= 64 else 8


def row_attention(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float) -> Tensor:
    """[K, heads, M, d] of ``query`` [K, heads, M, d] and ``key``, ``value`` [K, groups, M, d] in 16 bits.

    Row i of trial k has tokens ``starts[k, i]`` to ``starts[k, i + 1]`` [K, R + 1], at most ``longest`` (128) of them;
    a token in no row comes out as 0.  d is a power of two from 16 to 128.
    """
    return _RowAttention.apply(query, key, value, starts, longest, scale)
