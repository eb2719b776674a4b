"""Attention within rows whose answers stand side by side behind one question, forward, on a GPU.

Behind a mask of numbers [B, 1, T, T], which every layer reads, cuDNN takes 90 us for 300 rows of 100 tokens (135M, an
H200), and 0.14 s of the host to plan for each new shape: 10.8 of the 56 s in which 30 trials were scored.  What a
token sees is told by one number a token, and a kernel that takes lengths as they come is compiled once.

A program holds a block of a row's queries, of all heads that share a key, and goes through the keys before them with a
running maximum and sum.
"""

from __future__ import annotations

import triton  # pyright: ignore[reportMissingImports]  # it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]  # the same
from torch import Tensor

from harness.engine.model.kernels.tiles import LOWEST

#: Queries of a program, tokens times heads of a group, and keys that it looks at together.
QUERIES, KEYS = 64, 32
#: exp(x) = 2^(x log2(e)); the hardware has the latter.
LOG2_E = 1.4426950408889634


@triton.jit
def _look(
    query, k, v, ends, token, at, tokens, scale, k_token, v_token, mixed, peak, total, width: tl.constexpr,
):  # fmt: skip
    """(mixed values, largest score, sum of weights) of what was seen so far and of the keys ``at`` these places."""
    c = tl.arange(0, width)
    place, inside = at[:, None].to(tl.int64), at[:, None] < tokens
    key = tl.load(k + place * k_token + c[None, :], mask=inside, other=0.0)
    value = tl.load(v + place * v_token + c[None, :], mask=inside, other=0.0)
    seen = (at[None, :] <= token[:, None]) & (token[:, None] < ends[None, :])
    scores = tl.where(seen, tl.dot(query, tl.trans(key)) * scale, float("-inf"))
    higher = tl.maximum(peak, tl.max(scores, axis=1))
    weights, kept = tl.exp2(scores - higher[:, None]), tl.exp2(peak - higher)
    mixed = tl.dot(weights.to(value.dtype), value, mixed * kept[:, None])
    return mixed, higher, total * kept + tl.sum(weights, axis=1)


@triton.jit(do_not_specialize=["rows", "tokens", "blocks"])
def _forward(
    q, k, v, o, last, rows, tokens, blocks, scale, q_row, q_head, q_token, k_row, k_head, k_token,
    v_row, v_head, v_token, o_row, o_head, o_token, group: tl.constexpr, width: tl.constexpr,
    queries: tl.constexpr, keys: tl.constexpr,
):  # fmt: skip
    row, heads = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
    block = blocks - 1 - tl.program_id(0) % blocks  # those that see most begin first
    number = block * queries + tl.arange(0, queries)  # heads of a group beside each other, as they lie
    token, head = number // group, heads * group + number % group
    first, after = block * queries // group, min(tokens, (block * queries + queries - 1) // group + 1)
    c = tl.arange(0, width)
    inside = token[:, None] < tokens
    place = token[:, None].to(tl.int64), head[:, None].to(tl.int64)
    query = tl.load(q + row * q_row + place[0] * q_token + place[1] * q_head + c[None, :], mask=inside, other=0.0)
    k += row * k_row + heads.to(tl.int64) * k_head
    v += row * v_row + heads.to(tl.int64) * v_head
    last += row % rows * tokens
    mixed = tl.zeros((queries, width), dtype=tl.float32)
    peak, total = tl.full((queries,), LOWEST, dtype=tl.float32), tl.zeros((queries,), dtype=tl.float32)
    for start in range(0, after, keys):
        at = start + tl.arange(0, keys)
        ends = tl.load(last + at, mask=at < tokens, other=0).to(tl.int32)
        if tl.max(ends, axis=0) > first:  # some query may see one of them
            mixed, peak, total = _look(
                query, k, v, ends, token, at, tokens, scale, k_token, v_token, mixed, peak, total, width
            )
    mixed /= tl.where(total > 0, total, 1.0)[:, None]  # what sees nothing is 0
    tl.store(o + row * o_row + place[0] * o_token + place[1] * o_head + c[None, :], mixed.to(query.dtype), mask=inside)


def tree_attention(query: Tensor, key: Tensor, value: Tensor, last: Tensor, scale: float) -> Tensor:
    """[B, heads, T, d] of ``query`` [B, heads, T, d] and ``key``, ``value`` [B, groups, T, d] in 16 bits; no gradient.

    Query i of row b looks at key j where ``j <= i < last[b % R, j]``, ``last`` [R, T]; one that looks at nothing comes
    out as 0.  d is a power of two from 16 to 128.
    """
    query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
    last = last.contiguous()
    count, heads, tokens, width = query.shape
    mixed = query.new_empty(count, tokens, heads, width).transpose(1, 2)  # the heads of a token beside each other
    group, groups = heads // key.shape[1], key.shape[1]
    blocks = triton.cdiv(tokens * group, QUERIES)
    if count * blocks:
        _forward[(count * blocks, groups)](  # pyright: ignore[reportIndexIssue]  # a kernel's grid
            query, key, value, mixed, last, len(last), tokens, blocks, scale * LOG2_E,
            *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *mixed.stride()[:3],
            group, width, QUERIES, KEYS, num_warps=4, num_stages=1,
        )  # fmt: skip
    return mixed
