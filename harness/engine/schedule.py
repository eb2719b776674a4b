"""The learning-rate schedule: by what each step of a task multiplies the rate.  It starts anew at every task.

A new schedule is a :class:`Schedule` here and the study's key that :func:`make_schedule` chooses it by.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from harness.study.config import TrainingSettings


class Schedule(ABC):
    """A function of a step's place in its task and of nothing else, so that a resumed task goes on as it was."""

    @abstractmethod
    def factor(self, step: int, steps: int) -> float:
        """What the rate of step ``step`` = 0 ... ``steps`` - 1 of a task is multiplied by, in [0, 1]."""


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Linear over the first ``warmup_steps`` of a task, then constant; the first step already moves."""

    warmup_steps: int

    def factor(self, step: int, steps: int) -> float:
        return min(1.0, (step + 1) / (self.warmup_steps + 1))


def make_schedule(training: TrainingSettings) -> Schedule:
    """The schedule of a study."""
    return WarmUp(training.warmup_steps)
