"""Stable-LoRA (arXiv 2603.05204): shrink A by (1 - lambda) before each step, until B has grown to A's scale.

For each matrix pair A [r, n], B [m, r], at every optimizer step, with gradients taken at the A before it shrinks:

    if not latched:
        if ||A||_F / n <= ||B||_F / m:  latched = True, for ever
        else:                           A <- (1 - lambda) A
    AdamW on A and B

Lambda is not scaled by the learning rate and not warmed up; the default lies inside the paper's range, 5e-4 to 5e-3.
The check sees A before the shrink and B before its update.
Source of the rule: the paper's stop rule; the published optimiser writes it as ||A|| < (numel A / numel B) ||B||,
which is the same up to equality (numel A / numel B = rn / mr = n / m).

What deviates: the latch is part of the checkpoint (the published optimiser forgets it on resume), and the 'if' on
device numbers is a mask, so that a step of K trials reads nothing back to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from harness.method import BoundUpdate, Method, MethodSettings, Recipe, UpdateRule
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank


#: Lambda by default, and those that are worth a try: the paper's range.
LAMBDA = 1e-3
LAMBDAS = (5e-4, 1e-3, 5e-3)


@dataclass(frozen=True)
class Shrink(UpdateRule):
    """Shrink every A by (1 - rate) a step until its latch closes."""

    rate: float

    @classmethod
    def bind(cls, rules: Sequence[Self | None], bank: AdapterBank) -> BoundUpdate:
        return _BoundShrink([rule.rate if rule else 0.0 for rule in rules], bank)


class _BoundShrink(BoundUpdate):
    def __init__(self, rates: list[float], bank: AdapterBank) -> None:
        layout, device = bank.layout, bank.values.device
        a_factors = layout.factors[: len(layout.slots)]
        self.rate = torch.tensor(rates, device=device)[:, None]
        self.b_of_a = torch.tensor(layout.b_of_a, device=device)
        #: n / m of every pair, to compare ||A|| with (n / m) ||B||
        self.ratio = torch.tensor([f.slot.in_features / f.slot.out_features for f in a_factors], device=device)
        self.latched = torch.zeros(bank.trials, len(layout.slots), dtype=torch.bool, device=device)

    def before_step(self, bank: AdapterBank, active: Tensor) -> None:
        norm_a, norm_b = bank.layout.norms(bank.values)
        self.latched |= norm_a <= self.ratio * norm_b[:, self.b_of_a]
        shrinks = active[:, None] & ~self.latched
        bank.layout.scale_a_(bank.values, 1 - self.rate * shrinks)

    def state(self) -> dict[str, Tensor]:
        return {"latched": self.latched}


class Settings(MethodSettings):
    shrink: float = Field(LAMBDA, ge=0, lt=1, description="lambda, the share of A taken away at each step")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return super().grid(steps_per_task) | {"shrink": LAMBDAS}


def compose(settings: Settings) -> Recipe:
    return Recipe(updates=(Shrink(settings.shrink),))


METHOD = Method(
    name="stable_lora",
    summary="Stable-LoRA: shrink A early, until B has grown to its scale",
    source="arXiv 2603.05204",
    settings=Settings,
    compose=compose,
)
