"""A checksum of weights that a GPU computes where they lie: to copy 270 MB and hash them takes half a second a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Numbers that are widened to 64 bits at a time.
CHUNK = 2**22
#: Odd numbers without a pattern, as signed ones: 2^64 over the golden ratio, for places in a part, and a constant of
#: XXH64 for parts.  With one for both, a number of one part could change places with one of the next unseen.
SPREAD, NEXT = 0x9E3779B97F4A7C15 - 2**64, 0xC2B2AE3D27D4EB4F - 2**64
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(weights: Sequence[Tensor]) -> str:
    """64 bits of contiguous tensors on one device; any one number that changes, or two that change places, change it.

    Modulo 2^64: sums of the numbers' bits, each times an odd number of its place in its part, as the digits of one
    number.  It is made for accidents: who knows it can make weights that have it.
    """
    device = weights[0].device
    places = (torch.arange(CHUNK, device=device) * SPREAD) | 1
    total = torch.zeros((), dtype=torch.int64, device=device)
    for weight in weights:
        for part in weight.flatten().view(_BITS[weight.element_size()]).split(CHUNK):
            total = total * NEXT + (part.to(torch.int64) * places[: len(part)]).sum()
    return f"{total.item() % 2**64:016x}"
