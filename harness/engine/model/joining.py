"""Whether a model takes the rows of a trial behind each other, without padding: tried on a few tokens, on a GPU.

A fifth to a third of what goes through a model in padded rows is padding: of 8 rows of 24 to 58 tokens of 30 trials
36 %, where rows behind each other leave some 22 % less to compute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from harness.engine.batches import Joined
from harness.engine.model.fused import FAMILIES
from harness.engine.model.precision import LOW
from harness.engine.model.try_kernels import kernels_for

if TYPE_CHECKING:
    from harness.engine.model.packed import PackedModel

#: Tokens of a row up to which the kernel is the faster way.  It takes rows of 128 too, but there it took 290 us back on
#: an H200 where cuDNN takes 110 for what has no padding.
LONGEST = 64
#: Widths of a head that our own kernels of attention take.
WIDTHS = (16, 32, 64, 128)
#: Most that hidden states may be off by, as a share of their norm: rounding to bfloat16 in another order takes them one
#: or two hundredths off in thirty layers, and a row that sees its neighbour takes them half.
ROUNDING = 0.1


def fits(model: PackedModel) -> bool:
    """Whether our own kernels may attend in it: they take 16 bits, know no window, and are told of rows by keyword."""
    config = model.module.config.get_text_config()
    ours = config.model_type in FAMILIES and model.attends_itself and kernels_for(model.device) is not None
    return ours and model.dtype in LOW and _width(config) in WIDTHS and model.window is None


def joins_rows(model: PackedModel) -> bool:
    """Whether joined rows have the hidden states that they have in rows of their own."""
    if not fits(model):
        return False
    try:
        return _keeps_rows_apart(model) and _runs_back(model)
    except Exception:  # what a compiler raises whose GPU has too little shared memory, or a family's code
        return False


def _width(config: Any) -> int:
    """Of a head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _keeps_rows_apart(model: PackedModel) -> bool:
    lengths = torch.tensor([9, 5])
    ids = (torch.arange(14, device=model.device) * 7919) % model.vocabulary
    positions = torch.cat([torch.arange(int(length), device=model.device) for length in lengths])
    starts = torch.tensor([[0, 9, 14]], device=model.device)
    with torch.no_grad():
        alone = torch.cat([model.hidden(part[None])[0] for part in ids.split(lengths.tolist())])
        together = model.hidden(ids[None], joined=Joined(starts, positions[None], LONGEST))[0]
    return bool((together - alone).norm() <= ROUNDING * alone.norm())


def _runs_back(model: PackedModel) -> bool:
    """Whether the largest tile of the kernel compiles and runs both ways on this card; it raises where it does not."""
    kernels, config = kernels_for(model.device), model.module.config.get_text_config()
    assert kernels is not None
    query, key = (
        torch.ones(1, n, LONGEST, _width(config), dtype=model.dtype, device=model.device, requires_grad=True)
        for n in (config.num_attention_heads, config.num_key_value_heads)
    )
    starts = torch.tensor([[0, LONGEST]], device=model.device)
    with torch.enable_grad():
        mixed = kernels.row_attention(query, key, key, starts, LONGEST, 1.0)
        gradient = torch.autograd.grad(mixed.sum(), query)[0]
    return bool(gradient.isfinite().all())
