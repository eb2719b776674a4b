"""LoRA + EMA: train plain LoRA, score the exponential moving average of its factors.

After every optimizer step, in fp32, from a copy of the student (never from zeros):

    theta_ema <- decay theta_ema + (1 - decay) theta,   decay = 1 - 1 / window

The window is in steps, and the same at every position of a stream: ``ema_window`` is its share of a task's steps (0.15
by default), in whole steps and at least 4: 10 of 64.  So an average is as far behind its student after the last task as
after the first.  0.999, the decay usually quoted, is a window of 1000 steps: it only makes sense for tasks of thousands
(``ema_decay``, instead of ``ema_window``).

With ``ema_warmup`` the decay is at most (1 + t) / (10 + t) after t updates, counted over the whole stream, which keeps
the start (the base model) out of the average.  But then the window grows with the position, to 10 % of all steps so
far: an average that is 8 steps behind after the first of six tasks of 64 steps is 44 behind after the last.

The average is of A and of B, not of their product: EMA(B) EMA(A) differs from EMA(BA) by the EMA covariance of the
factors.  Training always goes on from the student's weights, and the average goes on from task to task.

Sources: arXiv 1703.01780 (Mean Teacher) for the update; arXiv 2402.18865 (I-LoRA), 2511.22367 (SuRe) for LoRA factors;
the warm-up of the decay is the one of TensorFlow's ExponentialMovingAverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, ValidationInfo, field_validator

from harness.errors import SettingError
from harness.method import Average, BoundAverage, Method, MethodSettings, Recipe
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank


#: The share of a task's steps that an average spans by default, those that are worth a try, and the least in steps.
WINDOW = 0.15
WINDOWS = (0.1, 0.3, 1.0)
LEAST_STEPS = 4


def window_steps(share: float, steps_per_task: int) -> int:
    """The steps that an average over this share of a task spans."""
    return max(LEAST_STEPS, round(share * steps_per_task))


@dataclass(frozen=True)
class FactorEma(Average):
    """EMA of A and B with this decay a step, which starts lower where it is ``warm``."""

    decay: float
    warm: bool = False

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
    ema_decay: float | None = Field(None, ge=0, lt=1, description="decay a step, instead of ema_window")
    ema_window: float | None = Field(
        None, gt=0, description=f"steps 1 / (1 - decay) as a share of a task's, at least 4; default {WINDOW}"
    )
    ema_warmup: bool = Field(False, description="whether the decay is at most (1 + t) / (10 + t), t over the stream")

    @field_validator("ema_window")
    @classmethod
    def _one_of_them(cls, window: float | None, info: ValidationInfo) -> float | None:
        if window is not None and info.data.get("ema_decay") is not None:
            raise SettingError("the window stands here twice: ema_decay is one, too", remedy="leave one of them out")
        return window

    def check_stream(self, tasks: int) -> None:
        if self.ema_window is not None and self.ema_window > tasks:
            raise SettingError(
                f"an average over {self.ema_window:g} tasks is longer than a stream of {tasks}",
                remedy=f"give a share of a task's steps: 0.1 is a tenth of a task, {tasks} the whole stream",
                key="ema_window",
            )

    def resolved(self, steps_per_task: int) -> Self:
        if self.ema_decay is None:
            share = WINDOW if self.ema_window is None else self.ema_window
            return self._with(share, 1 - 1 / window_steps(share, steps_per_task))
        if self.ema_window is None:
            return self._with(round(1 / (1 - self.ema_decay) / steps_per_task, 6), self.ema_decay)
        return self  # it has been resolved

    def _with(self, window: float, decay: float) -> Self:
        return self.model_copy(update={"ema_window": window, "ema_decay": decay})

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        """Windows that differ in steps."""
        shares = {window_steps(share, steps_per_task): share for share in WINDOWS}
        return super().grid(steps_per_task) | {"ema_window": tuple(shares.values())}


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
