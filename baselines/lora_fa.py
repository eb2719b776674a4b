"""LoRA-FA (Zhang et al., arXiv 2308.03303): A stays where it starts, only B trains.

What B can do to W0 is then a projection of the full gradient G of s B A: with the gradient g of B,

    g <- g (A A^T + delta I)^-1 / s^2,   delta = 1e-8,   the nearest that s g A comes to G

and AdamW steps along it, with eps 1e-6 that the correction of the bias does not divide.  That is what is meant here,
PEFT's ``create_lorafa_optimizer``; ``projected: false`` is AdamW on the gradient of B as it is, as the paper has it.

The paper's reason is memory: nobody needs the inputs of A.  That is not had here: the one engine takes the gradients of
both factors and leaves A's out of clip and update.  Under ``reinit`` every task has another A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from harness.method import AdamW, BoundOptimizer, CurrentTask, LowRank, Method, MethodSettings, Optimizer, Recipe
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank, Layout

DELTA, EPS, BETAS = 1e-8, 1e-6, (0.9, 0.999)


@dataclass(frozen=True)
class FixedA(LowRank):
    """LoRA factors of which only B trains."""

    @property
    def fixes(self) -> Literal["A"]:
        return "A"


@dataclass(frozen=True)
class ProjectedB(Optimizer):
    """AdamW on the gradient of B that comes nearest to the full one, for an A that stays."""

    @classmethod
    def bind(cls, optimizers: Sequence[Self], bank: AdapterBank[Layout], weight_decay: float) -> BoundOptimizer:
        return _BoundProjectedB(bank, weight_decay)


class _BoundProjectedB(BoundOptimizer):
    def __init__(self, bank: AdapterBank[Layout], weight_decay: float) -> None:
        values, rank = bank.values, bank.layout.rank
        self.weight_decay = weight_decay
        self.ratios = torch.ones(bank.trials, 1, device=values.device)
        self.step_count = torch.zeros((), dtype=torch.float64, device=values.device)
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        #: (A A^T + delta I)^-1 / s^2 of every slot: A stays, so once a task is enough.
        self.inverse = torch.zeros(bank.trials, len(bank.layout.slots), rank, rank, device=values.device)

    def begin_task(self, bank: AdapterBank[Layout], task: CurrentTask) -> None:
        grams = torch.stack([a @ a.mT for a, _ in bank.layout.split(bank.values)], 1)
        eye = torch.eye(bank.layout.rank, device=grams.device)
        self.inverse.copy_(torch.linalg.pinv(grams + DELTA * eye) / bank.scaling[:, None, None, None] ** 2)

    def step(self, bank: AdapterBank[Layout], gradient: Tensor, rate: Tensor) -> None:
        self.step_count += 1
        for i, (_, g) in enumerate(bank.layout.split(gradient)):
            g.copy_(g @ self.inverse[:, i])
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        size = rate * (1 - BETAS[1] ** self.step_count) ** 0.5 / (1 - BETAS[0] ** self.step_count)
        bank.values.sub_(size * self.mean / self.square.sqrt().add_(EPS))
        if self.weight_decay:
            bank.values.mul_(1 - rate * self.weight_decay)

    def state(self) -> dict[str, Tensor]:
        names = ("mean", "square", "step_count", "inverse")
        return {name: getattr(self, name) for name in names}


class Settings(MethodSettings):
    projected: bool = Field(True, description="whether B follows the projected gradient, as in PEFT; else its own")


def compose(settings: Settings) -> Recipe:
    return Recipe(adapter=FixedA(), optimizer=ProjectedB() if settings.projected else AdamW())


METHOD = Method(
    name="lora_fa",
    summary="LoRA-FA: A stays where it starts, B follows the projected gradient",
    source="arXiv 2308.03303; PEFT's create_lorafa_optimizer",
    settings=Settings,
    compose=compose,
)
