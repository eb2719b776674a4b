"""Whether answers side by side behind one question need no mask, but our own kernel: tried on a few tokens, on a GPU.

The trial of a family is in float32, behind a mask, and the kernel takes 16 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.engine.model.joining import ROUNDING

if TYPE_CHECKING:
    from harness.engine.model.packed import PackedModel

#: Tokens of a question, and of the first of two answers; and of all.
QUESTION, FIRST, LENGTH = 3, 8, 22


def keeps_branches_apart(model: PackedModel) -> bool:
    """Whether two answers in one row have the hidden states that they have in rows of their own."""
    at = torch.arange(LENGTH, device=model.device)
    ids, behind = at * 7919 % model.vocabulary, QUESTION + FIRST
    last = torch.where((at >= QUESTION) & (at < behind), behind, LENGTH)
    positions = torch.where(at < behind, at, at - FIRST)
    try:
        with torch.no_grad():
            one = model.hidden(ids[None, :behind])[0]
            other = model.hidden(torch.cat([ids[:QUESTION], ids[behind:]])[None])[0, QUESTION:]
            together = model.hidden(ids[None], last[None], positions[None])[0]
    except Exception:  # what a compiler raises whose GPU has too little shared memory, or a family's code
        return False
    alone = torch.cat([one, other])
    return bool((together - alone).norm() <= ROUNDING * alone.norm())
