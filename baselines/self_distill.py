"""Self-distillation from an EMA of the adapter, on the given answers.

    loss = CE(answer) + w * mean_t KL(p_teacher(. | x, y_<t) || p_student(. | x, y_<t)),   y = the given answer

The teacher is the EMA of the adapter (:mod:`baselines.lora_ema`), without gradient, over the full vocabulary; the
divergence is on for the answer tokens after the first ``skip_tokens`` and off for the first ``distill_warmup`` of every
task's steps.  The divergence is named by its formula, ``kl_teacher_student`` = sum p_T (log p_T - log p_S).

This is the Mean Teacher / TEMA cell of the design (arXiv 1703.01780; Sviridenko et al.): teacher without demonstration,
on given tokens.  SDFT (arXiv 2601.19897), on the student's own samples, is another method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from baselines import lora_ema
from harness.engine.losses import DIVERGENCES, cross_entropy
from harness.engine.method import BoundLoss, Loss, Method, MethodSettings, Recipe


@dataclass(frozen=True)
class SelfDistillation(Loss):
    """CE + weight * divergence from the average; ``warmup`` is the share of a task's steps before it starts."""

    weight: float
    divergence: str = "kl_teacher_student"
    temperature: float = 1.0
    warmup: float = 0.1
    skip_tokens: int = 0

    teacher: ClassVar[Literal["average"]] = "average"

    @property
    def pack_key(self) -> tuple:
        return (type(self).__name__, self.divergence, self.temperature, self.warmup, self.skip_tokens)

    @classmethod
    def bind(cls, losses: Sequence[Loss], device: torch.device) -> BoundLoss:
        return _BoundSelfDistillation(losses, device)


class _BoundSelfDistillation(BoundLoss):
    def __init__(self, losses: Sequence[SelfDistillation], device: torch.device) -> None:
        self.settings = losses[0]  # all but the weight is in pack_key, so it is the same for every row
        self.divergence = DIVERGENCES[self.settings.divergence]
        self.weight = torch.tensor([loss.weight for loss in losses], device=device)

    def needs_teacher(self, progress: float) -> bool:
        return progress >= self.settings.warmup

    def tokens(self, student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
        loss = cross_entropy(student, target)
        if teacher is None:
            return loss
        temperature = self.settings.temperature
        distilled = self.divergence(student / temperature, teacher / temperature)
        return loss + self.weight[row] * (position >= self.settings.skip_tokens) * distilled


class Settings(lora_ema.Settings):
    distill_weight: float = Field(1.0, ge=0, description="w, the weight of the divergence beside the cross-entropy")
    divergence: Literal["kl_teacher_student", "kl_student_teacher"] = "kl_teacher_student"
    temperature: float = Field(1.0, gt=0)
    distill_warmup: float = Field(0.1, ge=0, le=1, description="share of a task's steps before distillation starts")
    skip_tokens: int = Field(0, ge=0, description="first answer tokens left out of the divergence")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return MethodSettings.grid(steps_per_task) | {"distill_weight": (0.5, 1.0)}


def distillation(settings: Settings) -> SelfDistillation:
    """The loss that these settings ask for."""
    return SelfDistillation(
        weight=settings.distill_weight,
        divergence=settings.divergence,
        temperature=settings.temperature,
        warmup=settings.distill_warmup,
        skip_tokens=settings.skip_tokens,
    )


def compose(settings: Settings) -> Recipe:
    average = lora_ema.FactorEma(settings.ema_decay)
    return Recipe(average=average, loss=distillation(settings))


METHOD = Method(
    name="self_distill",
    summary="LoRA with CE + KL to the EMA of its own adapter, on the given answers",
    source="arXiv 1703.01780; TEMA",
    settings=Settings,
    compose=compose,
)
