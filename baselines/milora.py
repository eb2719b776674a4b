"""MiLoRA (Wang et al., arXiv 2406.09044): the adapter starts as the minor part of W0, the principal part is frozen.

With W0 = U S V^T, and U_r, S_r, V_r those of its r smallest singular values, s the scaling:

    B0 = U_r (S_r / s)^1/2,  A0 = (S_r / s)^1/2 V_r^T,  W = (W0 - s B0 A0) + s B A

The opposite of `pissa`, and like it without writing to W0: what is taken off lies below as a frozen negative adapter,
so an export is plain LoRA of rank 2 r.  The paper has no s; it is divided out of the start as PEFT does it for PiSSA.
PEFT does not have MiLoRA.

Because the smallest singular values are near zero, it starts nearly at A = B = 0 in these directions, and rates are
LoRA's.  Under ``reinit`` every task starts from the minor part of W0 again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.method import LowRank, Method, MethodSettings, Recipe, Start

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Minor(LowRank):
    """LoRA factors that start as W0's smallest singular directions, which are taken off the base."""

    puts_below: ClassVar[bool] = True

    def start(self, drawn: Tensor, at: Start) -> tuple[Tensor, Tensor]:
        rank = at.layout.rank
        for slot, (a, b), base in zip(at.layout.slots, at.layout.split(drawn[None]), at.spectra(), strict=True):
            at.check_room(slot, base.d.shape[1], "singular directions")
            root = (base.d[0, -rank:, None] / at.scaling).sqrt()
            a[0] = root * base.v[0, -rank:]
            b[0] = (root * base.u[0, -rank:]).mT
        return drawn, at.negative_of(drawn)


def compose(settings: MethodSettings) -> Recipe:
    return Recipe(adapter=Minor())


METHOD = Method(
    name="milora",
    summary="MiLoRA: starts as the minor part of each matrix",
    source="arXiv 2406.09044",
    compose=compose,
)
