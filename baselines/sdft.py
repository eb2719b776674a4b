"""SDFT (arXiv 2601.19897): on the student's own answers, learn from oneself with the right answer in the prompt.

    y ~ p_student(. | x), one answer a prompt, at temperature 1
    loss = mean over answers of mean_t KL(p_teacher(. | x', y_<t) || p_student(. | x, y_<t))

x' is the prompt with the demonstration (``teacher_prompt``), the teacher the EMA of the adapter, without gradient; the
divergence is over the full vocabulary, and there is no cross-entropy.  The gradient through the sampler is left out, as
in the source.  Loss, teachers and prompts are those of :mod:`baselines.self_distill`, without its cross-entropy.

The paper writes KL(p_S || p_T); its authors have said since that every published number is of KL(p_T || p_S), the
default here (``kl_teacher_student``).

The decay is the same from the first step on, as in the source: a teacher that follows its student at first
(``ema_warmup`` of :mod:`baselines.lora_ema`) unlearns with it to read the demonstration, and both agree on nothing.

What deviates: LoRA, not full fine-tuning, so the teacher is the average of the factors (started from a copy of the
student; the default window is that of :mod:`baselines.lora_ema`; the paper's rates, 0.01-0.05, are 0.95-0.99); the
teacher's prompt is of few-shot form and not in the paper's words, which small models don't follow (``teacher_prompt``
takes them; numbers in :mod:`baselines.self_distill`); ``skip_tokens`` is 0 where the
published code has 3, and skipped tokens count as zeros; answers of multiple-choice tasks, which have no end token, are
as long as the given ones; student and sampler are the same weights at the same precision, so there is no importance
weight.

Without a demonstration the teacher starts as the student, whoever it is, and there is nothing to learn from it.
"""

from typing import Literal

from pydantic import Field

from baselines import lora_ema, self_distill
from harness.method import Method, Recipe


class Settings(self_distill.TeacherSettings):
    demonstration: bool = Field(True, description="whether the teacher's prompt shows the given answer")
    tokens: Literal["given", "own"] = Field("own", description="whose answers the divergence is on")


def loss(settings: Settings) -> self_distill.SelfDistillation:
    return self_distill.distillation(settings, weight=1.0, warmup=0.0, imitates=False)


def compose(settings: Settings) -> Recipe:
    return Recipe(average=lora_ema.average(settings), loss=loss(settings))


METHOD = Method(
    name="sdft",
    summary="SDFT: KL to its EMA that sees the demonstration, on the student's own answers",
    source="arXiv 2601.19897",
    settings=Settings,
    compose=compose,
)
