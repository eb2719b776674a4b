"""MiCA (arXiv 2604.01694): B is fixed to W0's minor left singular vectors, A trains from zero.

With W0 = U S V^T and r the rank:

    B = the r columns of U with the smallest singular values, fixed;  A0 = 0;  W = W0 + s B A

so all that is learnt goes into outputs that W0 hardly uses.  As in PEFT (``init_lora_weights="mica"``), which is what
is meant; unlike `milora` nothing is taken off the base.  Under ``reinit`` every task starts from A = 0 on the same B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.method import LowRank, Method, MethodSettings, Recipe, Start

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MinorOutputs(LowRank):
    """LoRA factors of which only A trains, from zero; B holds W0's smallest left singular directions."""

    takes_spectra: ClassVar[bool] = True

    @property
    def fixes(self) -> Literal["B"]:
        return "B"

    def room(self, shape: tuple[int, int]) -> int:
        return min(shape)

    def start(self, drawn: Tensor, at: Start) -> Tensor:
        rank = at.layout.rank
        for slot, (a, b), base in zip(at.layout.slots, at.layout.split(drawn[None]), at.spectra(), strict=True):
            at.check_room(slot, base.d.shape[1], "singular directions")
            a.zero_()
            b[0] = base.u[0, -rank:].mT
        return drawn


def compose(settings: MethodSettings) -> Recipe:
    return Recipe(adapter=MinorOutputs())


METHOD = Method(
    name="mica",
    summary="MiCA: B fixed to each matrix's minor left directions, A trains from zero",
    source="arXiv 2604.01694; PEFT's definition",
    compose=compose,
)
