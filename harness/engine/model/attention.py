"""Attention where transformers' own way is slow: on a CPU of short rows, behind a mask for scoring and in bfloat16
without one, and in bfloat16 without instructions for it; on a GPU behind a mask where heads share keys, within short
rows that are joined, and in rows where answers stand side by side.

torch's kernel for a CPU takes 3.2 ms for 1,024 tokens of a 135M model in rows of 93 (nine heads of 64), where the same
products through ``matmul`` take 2.2 ms: 5 % of a checkpoint in float32.  Everything else is left to transformers.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from harness.engine.batches import Joined
from harness.engine.lines import Line
from harness.engine.model.products import multiplies_bfloat16, widened
from harness.engine.model.short_rows import FASTER, causal_attention, line_attention
from harness.engine.model.try_kernels import kernels_for

NAME = "lorabench"  #: under which transformers finds it (``attn_implementation``)
#: Longest row whose scores are written out: [rows, heads, T, T] in float32 must stay near the cache.
LONGEST = 256


def tree_mask(last: Tensor) -> Tensor:
    """``last`` [R, T] -> [R, 1, T, T], true where query i may look at key j: ``j <= i < last[j]``."""
    at = torch.arange(last.shape[1], device=last.device)
    return ((at[:, None] >= at) & (at[:, None] < last[:, None, :]))[:, None]


def groups_heads(mask: Tensor | None, key: Tensor, *_: Tensor) -> bool:
    """Whether the fastest kernel behind this mask takes keys that several heads share as they are.

    That is cuDNN's on an H100 or later: 0.09 ms for 300 rows of 100 tokens with nine heads, where copies of the keys
    for each head, and of a boolean mask as numbers, make it 0.18.
    """
    if mask is None or mask.shape[-2] != key.shape[-2] or not key.is_cuda:
        return False
    fits = key.dtype in (torch.bfloat16, torch.float16) and key.shape[-1] <= 128 and key.shape[-1] % 8 == 0
    return fits and _hopper(key.device)


def takes_numbers(mask: Tensor) -> bool:
    """Whether a boolean mask is to be made numbers once, not in every layer."""
    return _hopper(mask.device) if mask.is_cuda else not torch.is_grad_enabled()


@cache
def _hopper(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (9, 0) and torch.backends.cudnn.is_available()


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    joined: Joined | None = None,
    last: Tensor | None = None,
    line: Line | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """[R, T, heads, d] of query [R, heads, T, d] and key, value [R, groups, T', d], as transformers calls it.

    A mask of numbers is added to the scores, a tenth of the time that filling a boolean one takes.  Where rows are
    ``joined``, each is a sequence of them that don't see each other, and there is no mask; nor where ``last`` [n, T]
    says where what continues each token ends, of n rows over and over; nor in a ``line`` of all examples.
    """
    if line is not None:
        assert attention_mask is None
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        mixed = line_attention(widened(query), widened(key), widened(value), line, scale)
        return mixed.transpose(1, 2).to(query.dtype), None
    if joined is not None or last is not None:
        kernels = kernels_for(query.device)
        assert kernels is not None
        assert attention_mask is None
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        if joined is None:
            return kernels.tree_attention(query, key, value, last, scale).transpose(1, 2), None
        return kernels.row_attention(query, key, value, joined.starts, joined.longest, scale).transpose(1, 2), None
    length = query.shape[2]
    if length == 1 and query.is_cuda and kwargs.get("position_bias") is None:
        return one_query(query, key, value, attention_mask, scaling), None
    if attention_mask is None and dropout == 0 and _suits_products(module, query, key, value, **kwargs):
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        return causal_attention(query, key, value, scale).transpose(1, 2).contiguous(), None
    if (
        attention_mask is None
        or not attention_mask.is_floating_point()
        or torch.is_grad_enabled()
        or query.device.type != "cpu"
        or not length == key.shape[2] <= LONGEST
        or scaling is None
    ):
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = widened(attention_mask)
        mixed, _ = sdpa_attention_forward(
            module, widened(query), widened(key), widened(value), attention_mask,
            dropout=dropout, scaling=scaling, **kwargs,
        )  # fmt: skip
        return mixed.to(query.dtype), None
    rows, heads, _, width = query.shape
    grouped = query.float().reshape(rows, key.shape[1], -1, width) * scaling  # heads of one group share its keys
    scores = torch.matmul(grouped, key.float().mT).view(rows, heads, length, length)
    weights = scores.add_(attention_mask).softmax(-1).view(*grouped.shape[:3], length)
    mixed = torch.matmul(weights, value.float()).view(rows, heads, length, width)
    return mixed.transpose(1, 2).to(query.dtype).contiguous(), None


def _suits_products(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *,
    is_causal: bool | None = None, position_bias: Tensor | None = None, softcap: float | None = None, **_: Any,
) -> bool:  # fmt: skip
    """Whether these are short causal rows, in bfloat16 on a CPU that multiplies it."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if not causal or position_bias is not None or softcap is not None or key.shape != value.shape:
        return False
    fits = query.dtype is torch.bfloat16 and query.device.type == "cpu" and query.shape[2] == key.shape[2] <= FASTER
    return fits and multiplies_bfloat16()


def one_query(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """Of one token a row: the heads of a group are queries for its keys, which are read once and not copied."""
    rows, heads, _, width = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, width)
    mixed = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return mixed.reshape(rows, 1, heads, width)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
