"""OLoRA (Büyükakyüz, arXiv 2406.01775): the adapter starts with the orthonormal factor of W0's QR decomposition.

With W0 = Q R, r the rank and s the scaling:

    B0 = first r columns of Q,  A0 = first r rows of R,  W = (W0 - s B0 A0) + s B A

As in PEFT (``init_lora_weights="olora"``), which writes W0 - s B0 A0 to the base: with s = 2 that takes off twice of
what stands in these directions.  Here W0 is not written to: a frozen negative adapter lies below (see `pissa`), so an
export is plain LoRA of rank 2 r, and the start is W0 up to rounding.  The paper has no s.

The directions are those of W0's first columns, not of its largest values.  As with PiSSA a step moves what W0 holds, so
its rates are lower than LoRA's.  Under ``reinit`` every task starts from Q and R again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.method import Inspection, LowRank, Method, MethodSettings, Recipe, Start
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Orthonormal(LowRank):
    """LoRA factors that start as a part of W0's QR decomposition, which is taken off the base."""

    puts_below: ClassVar[bool] = True

    @property
    def inspects(self) -> tuple[Inspection, ...]:
        return (Inspection("start", matrices=1.6),)

    def room(self, shape: tuple[int, int]) -> int:
        return min(shape)

    def start(self, drawn: Tensor, at: Start) -> tuple[Tensor, Tensor]:
        for (a, b), (slot, weight) in zip(at.layout.split(drawn[None]), at.model.weights(), strict=True):
            at.check_room(slot, min(weight.shape), "orthonormal directions")
            q, r = torch.linalg.qr(weight.float())
            a[0], b[0] = r[: a.shape[1]], q[:, : a.shape[1]]
        return drawn, at.negative_of(drawn)


class Settings(MethodSettings):
    learning_rate: float = Field(1e-4, gt=0, description="rate of AdamW after warm-up")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return {"learning_rate": (2e-5, 5e-5, 1e-4, 2e-4, 5e-4)}


def compose(settings: Settings) -> Recipe:
    return Recipe(adapter=Orthonormal())


METHOD = Method(
    name="olora",
    summary="OLoRA: starts from the QR decomposition of each matrix",
    source="arXiv 2406.01775; PEFT's definition",
    settings=Settings,
    compose=compose,
)
