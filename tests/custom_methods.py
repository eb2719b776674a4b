"""Methods that ask for what no method of the project does, as a stranger would write them; ``CUSTOM`` has them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from harness.engine.adapters import AdapterBank
from harness.method import BoundOptimizer, LowRank, Method, MethodSettings, Optimizer, Recipe, Start, Vector


@dataclass(frozen=True)
class Lion(Optimizer):
    """Lion (Chen et al., arXiv 2302.06675): the sign of an interpolated momentum."""

    beta1: float = 0.9  #: share of the momentum in what is taken the sign of
    beta2: float = 0.99  #: what the momentum keeps of itself in a step

    @classmethod
    def bind(cls, optimizers: Sequence[Self], bank: AdapterBank, weight_decay: float) -> BoundOptimizer:
        return BoundLion(optimizers, bank, weight_decay)


class BoundLion(BoundOptimizer):
    def __init__(self, rows: Sequence[Lion], bank: AdapterBank, weight_decay: float) -> None:
        device = bank.values.device
        self.ratios = torch.ones(len(rows), 1, device=device)
        self.beta1 = torch.tensor([row.beta1 for row in rows], device=device)[:, None]
        self.beta2 = torch.tensor([row.beta2 for row in rows], device=device)[:, None]
        self.weight_decay = weight_decay
        self.mean = torch.zeros_like(bank.values)

    def step(self, bank: AdapterBank, gradient: Tensor, rate: Tensor) -> None:
        direction = torch.lerp(gradient, self.mean, self.beta1).sign()
        bank.values.sub_(rate * (direction + self.weight_decay * bank.values))
        self.mean.lerp_(gradient, 1 - self.beta2)

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean}


@dataclass(frozen=True)
class Scaled(LowRank):
    """LoRA factors, and a factor for every row of the whole."""

    vectors: ClassVar[tuple[Vector, ...]] = ("scale",)

    def start(self, drawn: Tensor, at: Start) -> Tensor:
        below = at.layout.frozen
        scales = at.layout.vector("scale", drawn[None])
        now = [torch.ones_like(s) for s in scales] if below is None else below.layout.vector("scale", below.values)
        for scale, same in zip(scales, now, strict=True):
            scale.copy_(same)
        return drawn


@dataclass(frozen=True)
class Minor(LowRank):
    """MiLoRA (Wang et al., arXiv 2406.09044): starts as the smallest singular directions, taken off the base."""

    puts_below: ClassVar[bool] = True
    takes_spectra: ClassVar[bool] = True

    def start(self, drawn: Tensor, at: Start) -> tuple[Tensor, Tensor]:
        for (a, b), base in zip(at.layout.split(drawn[None]), at.spectra(), strict=True):
            root = (base.d[0, -a.shape[1] :, None] / at.scaling).sqrt()
            a[0] = root * base.v[0, -a.shape[1] :]
            b[0] = (root * base.u[0, -a.shape[1] :]).mT
        return drawn, at.negative_of(drawn)


@dataclass(frozen=True)
class Lengths(LowRank):
    """A starts larger the longer the examples of the task are."""

    def start(self, drawn: Tensor, at: Start) -> Tensor:
        return drawn * mean_length(at.examples)


def mean_length(examples: Sequence) -> float:
    return sum(len(example.ids) for example in examples) / len(examples)


class LionSettings(MethodSettings):
    beta1: float = 0.9


def lion(settings: LionSettings) -> Recipe:
    return Recipe(optimizer=Lion(settings.beta1))


def adapting(adapter: LowRank) -> Method:
    def compose(settings: MethodSettings) -> Recipe:
        return Recipe(adapter=adapter)

    return Method(type(adapter).__name__.lower(), summary="an adapter", source="a test", compose=compose)


CUSTOM: dict[str, Method] = {
    "lion": Method("lion", summary="an optimizer", source="arXiv 2302.06675", compose=lion, settings=LionSettings),
    "scaled": adapting(Scaled()),
    "minor": adapting(Minor()),
    "lengths": adapting(Lengths()),
}
