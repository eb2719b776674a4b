"""Whether a model takes the rows of a trial, or of all trials, behind each other without padding: tried on few tokens.

A fifth to a third of what goes through a model in padded rows is padding: of 8 rows of 24 to 58 tokens of 30 trials
36 %, where rows behind each other leave some 22 % less to compute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.engine.batches import IN_LINE, Joined
from harness.engine.lines import line_up
from harness.engine.model.fused import FAMILIES
from harness.engine.model.precision import LOW
from harness.engine.model.try_kernels import kernels_for

if TYPE_CHECKING:
    from harness.engine.model.packed import PackedModel

#: Tokens of a row up to which the kernel is the faster way.  It takes rows of 128 too, but there it took 290 us back on
#: an H200 where cuDNN takes 110 for what has no padding.
LONGEST = 64
#: The same on a CPU, where scores of a row are written out: [heads, T, T] of all rows are kept for the way back.
LONGEST_IN_LINE = 256
#: Widths of a head that our own kernels of attention take.
WIDTHS = (16, 32, 64, 128)
#: Most that hidden states may be off by, as a share of their norm: rounding to bfloat16 in another order takes them one
#: or two hundredths off in thirty layers, and a row that sees its neighbour takes them half.
ROUNDING = 0.1


def fits(model: PackedModel) -> bool:
    """Whether our own kernels may attend in it: they take 16 bits, know no window, and are told of rows by keyword."""
    width = _width(model.module.config.get_text_config())
    return _is_told(model) and kernels_for(model.device) is not None and model.dtype in LOW and width in WIDTHS


def longest_joined(model: PackedModel) -> int:
    """Most tokens of rows that have the hidden states behind each other that they have by themselves; 0: none do."""
    try:
        if model.device.type in IN_LINE:
            return LONGEST_IN_LINE if _is_told(model) and _keeps_rows_apart(model) else 0
        return LONGEST if fits(model) and _keeps_rows_apart(model) and _runs_back(model) else 0
    except Exception:  # what a compiler raises whose GPU has too little shared memory, or a family's code
        return 0


def _is_told(model: PackedModel) -> bool:
    """Whether our attention is told of rows, and knows what their tokens see: no window."""
    family = model.module.config.get_text_config().model_type
    return family in FAMILIES and model.attends_itself and model.window is None


def _width(config: Any) -> int:
    """Of a head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _keeps_rows_apart(model: PackedModel) -> bool:
    lengths = [9, 5]
    ids = (torch.arange(14, device=model.device) * 7919) % model.vocabulary
    with torch.no_grad():
        alone = torch.cat([model.hidden(part[None])[0] for part in ids.split(lengths)])
        if model.device.type in IN_LINE:
            _, _, line = line_up([np.arange(length) for length in lengths], 1, 0)
            together = model.hidden(ids[None], line=line)[0]
        else:
            positions = torch.cat([torch.arange(length, device=model.device) for length in lengths])
            starts = torch.tensor([[0, 9, 14]], device=model.device)
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
