"""MiLoRA (Wang et al., arXiv 2406.09044): the adapter starts as the minor part of W0, the principal part is frozen.

With W0 = U S V^T, and U_r, S_r, V_r those of its r smallest singular values, s the scaling:

    B0 = U_r (S_r / s)^1/2,  A0 = (S_r / s)^1/2 V_r^T,  W = (W0 - s B0 A0) + s B A

The opposite of `pissa`, and like it without writing to W0: what is taken off lies below as a frozen negative adapter,
so an export is plain LoRA of rank 2 r.  The paper has no s; it is divided out of the start as PEFT does it for PiSSA.
PEFT does not have MiLoRA.

How large the start is hangs on the matrix.  In SmolLM2-135M the eight smallest singular values are 0.3 to 0.9 % of the
mean one in q and o, where the adapter starts nearly at A = B = 0, but 10 to 25 % in k and 25 to 45 % in v and the MLP,
where a step moves what W0 holds, as with PiSSA.  So ``tune`` has the rates of both, `corda`'s and LoRA's; the default
is LoRA's.  Under ``reinit`` every task starts from the minor part of W0 again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.method import LowRank, Method, MethodSettings, Recipe, Start

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Minor(LowRank):
    """LoRA factors that start as W0's smallest singular directions, which are taken off the base."""

    puts_below: ClassVar[bool] = True
    takes_spectra: ClassVar[bool] = True

    def room(self, shape: tuple[int, int]) -> int:
        return min(shape)

    def start(self, drawn: Tensor, at: Start) -> tuple[Tensor, Tensor]:
        rank = at.layout.rank
        for slot, (a, b), base in zip(at.layout.slots, at.layout.split(drawn[None]), at.spectra(), strict=True):
            at.check_room(slot, base.d.shape[1], "singular directions")
            root = (base.d[0, -rank:, None] / at.scaling).sqrt()
            a[0] = root * base.v[0, -rank:]
            b[0] = (root * base.u[0, -rank:]).mT
        return drawn, at.negative_of(drawn)


class Settings(MethodSettings):
    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return {"learning_rate": (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3)}


def compose(settings: Settings) -> Recipe:
    return Recipe(adapter=Minor())


METHOD = Method(
    name="milora",
    summary="MiLoRA: starts as the minor part of each matrix",
    source="arXiv 2406.09044",
    settings=Settings,
    compose=compose,
)
