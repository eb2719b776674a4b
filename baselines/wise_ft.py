"""WiSE-FT (Wortsman et al., arXiv 2109.01903): train plain LoRA, score the weights between the base and the trained.

    W = (1 - share) W0 + share (W0 + s B A) = W0 + share s B A

It is the control for "forgets less by learning less": whatever forgets less than LoRA at the accuracy of one of these
has done more than to shrink the change.  Training goes on from the student, so all shares train once, with `lora`, and
share 1 is `lora`, share 0 `frozen`.

The paper mixes all weights of a model; here that is the same, because all but the adapted matrices are the base's.
Under ``reinit`` the share is what the next task stands on, as of every average that is scored, so that each share is a
training of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from harness.method import Average, BoundAverage, Method, MethodSettings, Recipe
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank, Layout


@dataclass(frozen=True)
class BaseMix(Average):
    """The mean of base and student: ``share`` of the student's change."""

    share: float

    follows: ClassVar[bool] = False

    @classmethod
    def bind(cls, averages: Sequence[Self], rows: Sequence[int], bank: AdapterBank[Layout]) -> BoundAverage:
        return _BoundBaseMix(averages, rows, bank)


class _BoundBaseMix(BoundAverage):
    def __init__(self, averages: Sequence[BaseMix], rows: Sequence[int], bank: AdapterBank[Layout]) -> None:
        device = bank.values.device
        self.rows = torch.tensor(rows, device=device)
        #: By which every number is multiplied: those of B by the share, A stays.
        self.factor = torch.ones(len(rows), bank.layout.size, device=device)
        self.factor[:, bank.layout.a_size :] = torch.tensor([a.share for a in averages], device=device)[:, None]
        self.values = bank.values[self.rows] * self.factor

    def after_step(self, bank: AdapterBank[Layout]) -> None:
        torch.mul(bank.values[self.rows], self.factor, out=self.values)

    def state(self) -> dict[str, Tensor]:
        return {"values": self.values}


class Settings(MethodSettings):
    share: float = Field(0.5, ge=0, le=1, description="share of the trained change that is scored")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return super().grid(steps_per_task) | {"share": (0.25, 0.5, 0.75)}


def compose(settings: Settings) -> Recipe:
    return Recipe(average=BaseMix(settings.share), scored="average")


METHOD = Method(
    name="wise_ft",
    summary="plain LoRA, scored with a share of its change (control: learns less)",
    source="arXiv 2109.01903",
    control=True,
    settings=Settings,
    compose=compose,
)
