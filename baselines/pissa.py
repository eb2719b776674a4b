"""PiSSA (Meng et al., arXiv 2404.02948): the adapter starts as the principal part of W0 and the rest is what is frozen.

With W0 = U S V^T and r the rank, s the scaling:

    B0 = U_r (S_r / s)^1/2,  A0 = (S_r / s)^1/2 V_r^T,  W = (W0 - s B0 A0) + s B A

As in PEFT (``init_lora_weights="pissa"``), but W0 is not written to: the residual is W0 with a frozen negative adapter
-s B0 A0, so that the base is shared by every arm, and forgetting and intruders are those of W against the true W0.  The
start is W0 up to rounding: two large terms cancel.  An export is plain LoRA of rank 2 r.

Under ``reinit`` every task starts from the principal part of W0 again.  A step moves the largest directions of W0, so
its rates are lower than those of LoRA (the paper's is 2e-5): at 5e-4 SmolLM2-135M loses 1.8 bits a byte of plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.method import LowRank, Method, MethodSettings, Recipe, Start

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Principal(LowRank):
    """LoRA factors that start as W0's largest singular directions, which are taken off the base."""

    puts_below: ClassVar[bool] = True
    takes_spectra: ClassVar[bool] = True

    def start(self, drawn: Tensor, at: Start) -> tuple[Tensor, Tensor]:
        for (a, b), base in zip(at.layout.split(drawn[None]), at.spectra(), strict=True):
            rank = min(a.shape[1], base.d.shape[1])
            root = (base.d[0, :rank, None] / at.scaling).sqrt()
            a.zero_()
            a[0, :rank] = root * base.v[0, :rank]
            b[0, :, :rank] = (root * base.u[0, :rank]).mT
        return drawn, at.negative_of(drawn)


class Settings(MethodSettings):
    learning_rate: float = Field(1e-4, gt=0, description="rate of AdamW after warm-up")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return {"learning_rate": (2e-5, 5e-5, 1e-4, 2e-4, 5e-4)}


def compose(settings: Settings) -> Recipe:
    return Recipe(adapter=Principal())


METHOD = Method(
    name="pissa",
    summary="PiSSA: starts as the principal part of each matrix",
    source="arXiv 2404.02948; PEFT's definition",
    settings=Settings,
    compose=compose,
)
