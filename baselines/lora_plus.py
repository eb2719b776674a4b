"""LoRA+ (Hayou et al., arXiv 2402.12354): B learns faster than A, at ``ratio`` times its rate.

    A <- AdamW(A, rate),  B <- AdamW(B, ratio * rate)

The clip is of the whole gradient and comes before.  As in PEFT (``create_loraplus_optimizer``, which has no default for
the ratio); the paper and its code use 16.  ``learning_rate`` is A's, so it and its grid are lower than those of LoRA:
at LoRA's 5e-4 SmolLM2-135M loses twice as much plain text as with LoRA, and has intruders; at 1e-4 neither.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from harness.method import AdamW, Method, MethodSettings, Recipe


class Settings(MethodSettings):
    learning_rate: float = Field(1e-4, gt=0, description="rate of AdamW for A after warm-up")
    ratio: float = Field(16.0, gt=0, description="learning rate of B over that of A")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return {"learning_rate": (1e-5, 3e-5, 1e-4, 2e-4, 5e-4)}


def compose(settings: Settings) -> Recipe:
    return Recipe(optimizer=AdamW(b_ratio=settings.ratio))


METHOD = Method(
    name="lora_plus",
    summary="LoRA+: B at a higher learning rate than A",
    source="arXiv 2402.12354; PEFT's definition",
    settings=Settings,
    compose=compose,
)
