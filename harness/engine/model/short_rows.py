"""Causal attention within short rows on a CPU, forward and back: products of whole rows in place of torch's kernel.

torch's kernel takes bfloat16 slowly on its way back: forward and back, 24 rows of 57 tokens (nine heads of 64) take two
cores with AVX512-BF16 30 ms, and 11 with these products.  In float32 it is as fast, and faster where rows are long.
Scores are in float32, and weights are rounded before they meet the values, as in that kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.engine.lines import Line

#: Tokens of a row up to which products are faster in bfloat16, for scores alone nearly so: twice as fast as torch's
#: kernel with 128 tokens, no faster with 256.
FASTER = 128


class _RowAttention(torch.autograd.Function):
    """Heads of one group are queries for its keys: [R * groups, heads / groups * T, d] for [R * groups, T, d]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        rows, _, length, width = query.shape
        together = rows * key.shape[1]
        q, k, v = (x.reshape(together, -1, width) for x in (query, key, value))  # copied before they are widened
        scores = torch.bmm(q.float(), k.float().mT).view(-1, length, length)
        future = scores.new_full((length, length), -torch.inf).triu_(1)
        torch.add(future, scores, alpha=scale, out=scores)
        weights = scores.softmax(-1).to(q.dtype).view(together, -1, length)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale, ctx.shapes = scale, (query.shape, key.shape)
        return torch.bmm(weights, v).view(query.shape)

    @staticmethod
    def backward(ctx: Any, down: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, weights = ctx.saved_tensors
        of_queries, of_keys = ctx.shapes
        down = down.reshape(q.shape)
        to_weights = torch.bmm(down.float(), v.float().mT)
        to_scores = torch.ops.aten._softmax_backward_data(to_weights, weights.float(), -1, torch.float32)
        to_scores = to_scores.mul_(ctx.scale).to(q.dtype)
        return (
            torch.bmm(to_scores, k).view(of_queries), torch.bmm(to_scores.mT, q).view(of_keys),
            torch.bmm(weights.mT, down).view(of_keys), None,
        )  # fmt: skip


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """[R, heads, T, d] of query [R, heads, T, d] and key, value [R, groups, T, d]."""
    mixed = _RowAttention.apply(query, key, value, scale)
    assert isinstance(mixed, Tensor)
    return mixed


class _Apart(torch.autograd.Function):
    """States [N, heads, d] of a line, as rows [R, T, heads, d] of examples that are alike."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, line: Line) -> tuple[Tensor, ...]:
        ctx.line = line
        return tuple(_rows(states, alike.at) for alike in line.alike)

    @staticmethod
    def backward(ctx: Any, *downs: Tensor) -> tuple[Tensor, None]:
        return _line(downs, ctx.line), None


class _InLine(torch.autograd.Function):
    """The way back: what is computed of padding goes nowhere."""

    @staticmethod
    def forward(ctx: Any, line: Line, *rows: Tensor) -> Tensor:
        ctx.line = line
        return _line(rows, line)

    @staticmethod
    def backward(ctx: Any, down: Tensor) -> tuple[Tensor | None, ...]:
        rows = [_rows(down, alike.at).mul_(alike.real[:, :, None, None]) for alike in ctx.line.alike]
        return None, *rows


def _rows(states: Tensor, at: Tensor) -> Tensor:
    return states.index_select(0, at.flatten()).unflatten(0, at.shape)


def _line(rows: Sequence[Tensor], line: Line) -> Tensor:
    return torch.cat([each.flatten(0, 1) for each in rows]).index_select(0, line.back)


def line_attention(query: Tensor, key: Tensor, value: Tensor, line: Line, scale: float) -> Tensor:
    """[1, heads, N, d] of query [1, heads, N, d] and key, value [1, groups, N, d], each example by itself."""
    queries, keys, values = (_Apart.apply(x[0].transpose(0, 1), line) for x in (query, key, value))
    mixed = [
        causal_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale).transpose(1, 2)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return _InLine.apply(line, *mixed).transpose(0, 1)[None]
