"""Full fine-tuning of the adapted matrices: the reference whose weights have no low rank, and so no intruders.

    W = W0 + D,  D0 = 0,  D [m, n] trained by AdamW in fp32

The same matrices as every other arm (the study's targets: no embeddings, norms or head), in the same engine: a dense
change beside a base that is shared and never written to.  Its learning rate has a scale of its own, 2e-5 by default
(grid 5e-6 to 1e-4).  A row of a 135M model holds about 3 GB, so its packs are smaller.  Dense changes are not kept or
exported: PEFT's format has no place for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from harness.method import Adapter, Method, MethodSettings, Recipe


@dataclass(frozen=True)
class Dense(Adapter):
    """A full-size change of every adapted matrix, which starts at zero; the study's rank and alpha mean nothing."""

    @property
    def dense_copies(self) -> float:
        return 7.0  # the change, its gradient, two moments, and what a step makes of them

    @property
    def rank_factor(self) -> None:
        return None

    def scaling(self, rank: int, alpha: float) -> float:
        return 1.0


class Settings(MethodSettings):
    learning_rate: float = Field(2e-5, gt=0, description="rate of AdamW after warm-up")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return {"learning_rate": (5e-6, 1e-5, 2e-5, 5e-5, 1e-4)}


def compose(settings: Settings) -> Recipe:
    return Recipe(adapter=Dense())


METHOD = Method(
    name="full_finetune",
    summary="full fine-tuning of the same matrices (reference without intruders)",
    source="control",
    control=True,
    settings=Settings,
    compose=compose,
)
