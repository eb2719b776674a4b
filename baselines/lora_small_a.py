"""LoRA from a small A: the control that tells Stable-LoRA's shrinking from merely having a smaller A.

    A0 <- (1 - lambda)^s A0,   then plain LoRA

With s = the steps of the first task (the default), A starts where Stable-LoRA's would be after that task, had nothing
but the shrink moved it and had its latch never closed.  It depends on no other trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pydantic import Field

from baselines import stable_lora
from harness.method import LowRank, Method, MethodSettings, Recipe, Start

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SmallA(LowRank):
    """LoRA factors whose A starts ``factor`` times as large."""

    factor: float

    def start(self, drawn: Tensor, at: Start) -> Tensor:
        return drawn * self.factor  # B is zero


class Settings(MethodSettings):
    shrink: float = Field(stable_lora.LAMBDA, ge=0, lt=1, description="lambda, the share of A taken away for each step")
    shrink_steps: int | None = Field(None, ge=0, description="s; default: the steps of a task")

    def resolved(self, steps_per_task: int) -> Self:
        steps = steps_per_task if self.shrink_steps is None else self.shrink_steps
        return self.model_copy(update={"shrink_steps": steps})


def compose(settings: Settings) -> Recipe:
    assert settings.shrink_steps is not None, "it is resolved"
    return Recipe(adapter=SmallA((1 - settings.shrink) ** settings.shrink_steps))


METHOD = Method(
    name="lora_small_a",
    summary="plain LoRA from an A as small as Stable-LoRA would make it (control)",
    source="control for arXiv 2603.05204",
    control=True,
    settings=Settings,
    compose=compose,
)
