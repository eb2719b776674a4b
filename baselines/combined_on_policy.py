"""The on-policy combination: Stable-LoRA's shrink, SDFT's loss from the EMA of the adapter, and that same EMA scored.

Nothing is defined here: the shrink is that of :mod:`baselines.stable_lora`, the average that of
:mod:`baselines.lora_ema`, the loss that of :mod:`baselines.sdft`.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from baselines import lora_ema, sdft, stable_lora
from harness.method import Method, MethodSettings, Recipe


class Settings(sdft.Settings):
    shrink: float = Field(stable_lora.LAMBDA, ge=0, lt=1, description="lambda, the share of A taken away at each step")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return MethodSettings.grid(steps_per_task) | {"shrink": stable_lora.LAMBDAS}


def compose(settings: Settings) -> Recipe:
    return Recipe(
        updates=(stable_lora.Shrink(settings.shrink),),
        average=lora_ema.average(settings),
        loss=sdft.loss(settings),
        scored="average",
    )


METHOD = Method(
    name="combined_on_policy",
    summary="Stable-LoRA + SDFT from its EMA, which is also what is scored",
    source="arXiv 2603.05204, 2601.19897",
    settings=Settings,
    compose=compose,
)
