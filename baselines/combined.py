"""The combination: Stable-LoRA's shrink, self-distillation from the EMA of the adapter, and that same EMA scored.

Nothing is defined here: the shrink is that of :mod:`baselines.stable_lora`, the average that of
:mod:`baselines.lora_ema`, the loss that of :mod:`baselines.self_distill`.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from baselines import lora_ema, self_distill, stable_lora
from harness.method import Method, MethodSettings, Recipe


class Settings(self_distill.Settings):
    shrink: float = Field(stable_lora.LAMBDA, ge=0, lt=1, description="lambda, the share of A taken away at each step")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return MethodSettings.grid(steps_per_task) | {"shrink": stable_lora.LAMBDAS}


def compose(settings: Settings) -> Recipe:
    return Recipe(
        updates=(stable_lora.Shrink(settings.shrink),),
        average=lora_ema.average(settings),
        loss=self_distill.loss(settings),
        scored="average",
    )


METHOD = Method(
    name="combined",
    summary="Stable-LoRA + self-distillation from its EMA, which is also what is scored",
    source="arXiv 2603.05204, 1703.01780",
    settings=Settings,
    compose=compose,
)
