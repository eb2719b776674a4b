"""LoRA + EMA: train plain LoRA, score the exponential moving average of its factors.

After every optimizer step, in fp32, from a copy of the student (never from zeros):

    decay_t = min(decay, (1 + t) / (10 + t)),  t = updates done, from 0;  or decay at once, without ``ema_warmup``
    theta_ema <- decay_t theta_ema + (1 - decay_t) theta

The warm-up keeps the start, which is the base model, out of the average: its window is about 10 % of the steps so far,
over all tasks, until that is longer than 1 / (1 - decay).  In a stream of 384 steps all decays from 0.977 on are one.

The average is of A and of B, not of their product: EMA(B) EMA(A) differs from EMA(BA) by the EMA covariance of the
factors.  The default window 1 / (1 - decay) is max(50 steps, 10 % of a task's steps); 0.999, the value usually quoted,
only makes sense for tasks of thousands of steps.  Training always goes on from the student's weights, and the average
goes on from task to task.

Sources: arXiv 1703.01780 (Mean Teacher) for the update; arXiv 2402.18865 (I-LoRA), 2511.22367 (SuRe) for LoRA factors;
the warm-up of the decay is the one of TensorFlow's ExponentialMovingAverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from harness.method import Average, BoundAverage, Method, MethodSettings, Recipe
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank


@dataclass(frozen=True)
class FactorEma(Average):
    """EMA of A and B with this decay a step, which starts lower where it is ``warm``."""

    decay: float
    warm: bool = True

    @classmethod
    def bind(cls, averages: Sequence[Self], rows: Sequence[int], bank: AdapterBank) -> BoundAverage:
        return _BoundFactorEma(averages, rows, bank)


class Decay:
    """The decay of each average, [K], after so many updates."""

    def __init__(self, averages: Sequence[Any], device: torch.device) -> None:
        self.limit = torch.tensor([average.decay for average in averages], device=device)
        self.least = torch.tensor([0.0 if average.warm else 1.0 for average in averages], device=device)

    def __call__(self, updates: Tensor) -> Tensor:
        return torch.minimum(self.limit, torch.maximum((1 + updates) / (10 + updates), self.least))


class _BoundFactorEma(BoundAverage):
    def __init__(self, averages: Sequence[FactorEma], rows: Sequence[int], bank: AdapterBank) -> None:
        device = bank.values.device
        self.decay = Decay(averages, device)
        self.rows = torch.tensor(rows, device=device)
        self.values = bank.values[self.rows].clone()
        self.updates = torch.zeros((), device=device)

    def after_step(self, bank: AdapterBank) -> None:
        self.values.lerp_(bank.values[self.rows], (1 - self.decay(self.updates))[:, None])
        self.updates += 1

    def state(self) -> dict[str, Tensor]:
        return {"values": self.values, "updates": self.updates}


class Settings(MethodSettings):
    ema_decay: float | None = Field(
        None, ge=0, lt=1, description="decay a step; default: a window of max(50 steps, 10 % of a task's steps)"
    )
    ema_warmup: bool = Field(True, description="whether the decay is at most (1 + t) / (10 + t) after t steps")

    def resolved(self, steps_per_task: int) -> Self:
        decay = 1 - 1 / max(50, 0.1 * steps_per_task) if self.ema_decay is None else self.ema_decay
        return self.model_copy(update={"ema_decay": decay})

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        """Windows of 10, 30 and 80 % of a task's steps."""
        windows = [max(1.0, share * steps_per_task) for share in (0.1, 0.3, 0.8)]
        return super().grid(steps_per_task) | {"ema_decay": tuple(dict.fromkeys(round(1 - 1 / w, 4) for w in windows))}


def average(settings: Settings) -> FactorEma:
    assert settings.ema_decay is not None, "it is resolved"
    return FactorEma(settings.ema_decay, settings.ema_warmup)


def compose(settings: Settings) -> Recipe:
    return Recipe(average=average(settings), scored="average")


METHOD = Method(
    name="lora_ema",
    summary="plain LoRA, scored with the EMA of its factors",
    source="arXiv 1703.01780, 2402.18865",
    settings=Settings,
    compose=compose,
)
