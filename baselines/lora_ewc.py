"""LoRA + EWC (Kirkpatrick et al., arXiv 1612.00796): weights that earlier tasks depend on are held where they were.

    loss = CE + (lambda / 2) sum_tasks sum_i F_i (theta_i - theta*_i)^2

theta are the factors A and B, theta* their values at the end of an earlier task, and F the diagonal of its empirical
Fisher information there: the mean over ``fisher_examples`` of its training examples of (d log p(answer) / d theta)^2,
with log p summed over the answer's tokens; what is read for it counts as tokens of the trial.  The gradient of the
penalty is added before the clip.

A sum of quadratics is one quadratic but for a constant, so that state does not grow with the tasks:
F <- F + F_new,  theta* <- theta* + (theta_new - theta*) F_new / F.

Lambda 400 is TRACE's (arXiv 2310.06762).  What deviates: only the adapter is protected, since only it is trained; one
adapter goes through the stream whatever the study says between tasks, because a fresh one has other coordinates.  On a
stream of one task it is plain LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pydantic import Field

from harness.method import BoundUpdate, CurrentTask, Inspection, Method, MethodSettings, Recipe, UpdateRule
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank


@dataclass(frozen=True)
class Ewc(UpdateRule):
    """The quadratic penalty with this strength, and on how many examples the Fisher information is taken."""

    strength: float
    examples: int

    @property
    def inspects(self) -> tuple[Inspection, ...]:
        return (Inspection("end", "examples", self.examples, gradient=True),)

    @classmethod
    def bind(cls, rules: Sequence[Self | None], bank: AdapterBank) -> BoundUpdate:
        return _BoundEwc([rule or Ewc(0.0, 0) for rule in rules], bank)


class _BoundEwc(BoundUpdate):
    def __init__(self, rules: Sequence[Ewc], bank: AdapterBank) -> None:
        device = bank.values.device
        self.strength = torch.tensor([rule.strength for rule in rules], device=device)[:, None]
        self.examples = [rule.examples for rule in rules]
        self.fisher = torch.zeros_like(bank.values)
        self.anchor = torch.zeros_like(bank.values)

    def penalise(self, bank: AdapterBank, gradient: Tensor) -> None:
        gradient += self.strength * self.fisher * (bank.values - self.anchor)

    def end_task(self, bank: AdapterBank, task: CurrentTask) -> None:
        fisher = torch.zeros_like(self.fisher)
        wanted = [min(n, len(examples)) for n, examples in zip(self.examples, task.examples, strict=True)]
        for i in range(max(wanted)):
            asking = [row for row, n in enumerate(wanted) if i < n]
            squares = task.gradient([examples[i : i + 1] for examples in task.examples], asking).square()
            counts = torch.tensor([1 / n if i < n else 0.0 for n in wanted], device=fisher.device)
            fisher += torch.where(counts[:, None] > 0, squares * counts[:, None], 0.0)
        self.fisher += fisher
        share = torch.where(self.fisher > 0, fisher / self.fisher, 0.0)
        self.anchor += share * (bank.values - self.anchor)

    def state(self) -> dict[str, Tensor]:
        return {"fisher": self.fisher, "anchor": self.anchor}


class Settings(MethodSettings):
    ewc_strength: float = Field(400.0, ge=0, description="lambda, the weight of the penalty")
    fisher_examples: int = Field(64, ge=1, description="examples of each task on which the Fisher information is taken")


def compose(settings: Settings) -> Recipe:
    return Recipe(updates=(Ewc(settings.ewc_strength, settings.fisher_examples),), between="continue")


METHOD = Method(
    name="lora_ewc",
    summary="LoRA + EWC: a quadratic pull to where earlier tasks' important weights were",
    source="arXiv 1612.00796; lambda of arXiv 2310.06762",
    settings=Settings,
    compose=compose,
    on_one_task="plain LoRA",
)
