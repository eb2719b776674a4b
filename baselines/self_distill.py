"""Self-distillation: cross-entropy on the given answer, and a divergence from a teacher made of the model itself.

    loss = CE(given answer) + w * mean_t D(p_teacher(. | x', y_<t), p_student(. | x, y_<t))

    teacher   base: no adapter | snapshot: the student at the start of the task | ema: the average of the adapter |
              live: the student as it is; none has a gradient, and logits are over the full vocabulary
    x'        x, or x with the demonstration (the given answer) by way of ``teacher_prompt``
    y         the given answer, or the student's own to x (``tokens: own``)
    D         named by its formula: kl_teacher_student = sum p_T (log p_T - log p_S), kl_student_teacher, or jsd(beta)

The mean is over the answer tokens of a step on given tokens, and over answers of the mean over tokens on own ones (as
SDFT has it).  The divergence is on for the answer tokens after the first ``skip_tokens``, which count as zeros, and off
for the first ``distill_warmup`` of every task's steps.

The defaults are the Mean Teacher / TEMA cell (arXiv 1703.01780; Sviridenko et al.): the EMA of the adapter
(:mod:`baselines.lora_ema`) without demonstration on given tokens.  The divergence alone is :mod:`baselines.sdft`.
Source of the axes: arXiv 2601.19897 (SDFT), 2601.18734 (OPSD: base with demonstration), 2306.13649 (GKD: jsd).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field

from baselines import lora_ema
from harness.method import BoundLoss, Loss, Method, MethodSettings, Recipe, Sampling, Teacher, losses
from harness.method.lazy import torch
from harness.method.prompts import check_teacher_prompt

if TYPE_CHECKING:
    from torch import Tensor

#: The question with the answer, then the question: few-shot form, which any language model reads.  In SDFT's words for
#: chat models ("This is an example for a response to the question: ... Now answer with a response of your own")
#: SmolLM2-135M gives the shown answer to 0 to 2 of 20 examples of each of six tasks, with this to 2 to 20; on-policy
#: distillation then takes bbc_topics from 55 % to 34, with this to 82 and 91 (256 examples, two orders).
TEACHER_PROMPT = "{prompt} {demonstration}\n\n{prompt}"


def _known(name: str) -> str:
    losses.divergence(name)
    return name


@dataclass(frozen=True)
class SelfDistillation(Loss):
    """CE + weight * divergence; ``warmup`` is the share of a task's steps before the latter starts."""

    weight: float
    divergence: str = "kl_teacher_student"
    temperature: float = 1.0
    warmup: float = 0.1
    skip_tokens: int = 0
    teacher: Teacher = "ema"
    demonstration: str | None = None
    sampling: Sampling | None = None
    imitates: bool = True  #: whether there is a cross-entropy on the given answers, too

    @property
    def given(self) -> bool:
        return self.imitates or self.sampling is None

    @property
    def pack_key(self) -> tuple:
        shape = (self.sampling, self.imitates, self.divergence, self.temperature)
        return (type(self).__name__, *shape, self.warmup, self.skip_tokens)

    @classmethod
    def bind(cls, losses: Sequence[Self], device: torch.device) -> BoundLoss:
        return _BoundSelfDistillation(losses, device)


class _BoundSelfDistillation(BoundLoss):
    def __init__(self, rows: Sequence[SelfDistillation], device: torch.device) -> None:
        self.settings = rows[0]  # what is read of it below is in pack_key, so it is the same for every row
        self.divergence = losses.divergence(self.settings.divergence)
        self.weight = torch.tensor([loss.weight for loss in rows], device=device)

    def needs_teacher(self, progress: float) -> bool:
        return progress >= self.settings.warmup

    def is_cross_entropy(self, *, taught: bool) -> bool:
        return self.settings.imitates and not taught

    def tokens(self, student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
        parts = [losses.cross_entropy(student, target)] if self.settings.imitates else []
        parts += [] if teacher is None else [self.own_tokens(student, teacher, row, position)]
        return sum(parts[1:], parts[0])

    def own_tokens(self, student: Tensor, teacher: Tensor, row: Tensor, position: Tensor) -> Tensor:
        temperature = self.settings.temperature
        distilled = self.divergence(student / temperature, teacher / temperature)
        return self.weight[row] * (position >= self.settings.skip_tokens) * distilled


class TeacherSettings(lora_ema.Settings):
    """Who teaches, on which tokens, and how far the student is from it."""

    teacher: Teacher = Field("ema", description="whose logits: the base, the task's start, the EMA, the student's own")
    demonstration: bool = Field(False, description="whether the teacher's prompt shows the given answer")
    teacher_prompt: Annotated[str, AfterValidator(check_teacher_prompt)] = Field(
        TEACHER_PROMPT, description="how it is shown; ends as the student's prompt does"
    )
    tokens: Literal["given", "own"] = Field("given", description="whose answers the divergence is on")
    sample_temperature: float = Field(1.0, ge=0, description="of own answers; 0: greedy")
    sample_tokens: int = Field(16, ge=1, description="most tokens of an own answer")
    divergence: Annotated[str, AfterValidator(_known)] = "kl_teacher_student"
    temperature: float = Field(1.0, gt=0, description="both sides' logits are divided by it in the divergence")
    skip_tokens: int = Field(0, ge=0, description="first answer tokens left out of the divergence")


class Settings(TeacherSettings):
    distill_weight: float = Field(1.0, ge=0, description="w, the weight of the divergence beside the cross-entropy")
    distill_warmup: float = Field(0.1, ge=0, le=1, description="share of a task's steps before distillation starts")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return MethodSettings.grid(steps_per_task) | {"distill_weight": (0.3, 1.0)}


def distillation(settings: TeacherSettings, *, weight: float, warmup: float, imitates: bool) -> SelfDistillation:
    """The loss that these settings ask for."""
    return SelfDistillation(
        weight=weight,
        divergence=settings.divergence,
        temperature=settings.temperature,
        warmup=warmup,
        skip_tokens=settings.skip_tokens,
        teacher=settings.teacher,
        demonstration=settings.teacher_prompt if settings.demonstration else None,
        sampling=Sampling(settings.sample_temperature, settings.sample_tokens) if settings.tokens == "own" else None,
        imitates=imitates,
    )


def loss(settings: Settings) -> SelfDistillation:
    return distillation(settings, weight=settings.distill_weight, warmup=settings.distill_warmup, imitates=True)


def compose(settings: Settings) -> Recipe:
    return Recipe(average=lora_ema.average(settings), loss=loss(settings))


METHOD = Method(
    name="self_distill",
    summary="LoRA with CE + a divergence from a teacher: by default its EMA, on the given answers",
    source="arXiv 1703.01780; TEMA",
    settings=Settings,
    compose=compose,
)
