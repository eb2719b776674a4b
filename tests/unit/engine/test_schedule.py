"""By what the schedule multiplies the learning rate."""

from __future__ import annotations

from harness.engine.schedule import WarmUp, make_schedule
from harness.study.config import TrainingSettings


def factors(warmup_steps: int, steps: int = 6) -> list[float]:
    return [WarmUp(warmup_steps).factor(step, steps) for step in range(steps)]


def test_the_warm_up_is_linear_then_constant():
    assert factors(4) == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]


def test_without_a_warm_up_the_rate_is_constant():
    assert factors(0) == [1.0] * 6


def test_a_warm_up_longer_than_the_task_never_ends():
    assert factors(11) == [1 / 12, 2 / 12, 3 / 12, 4 / 12, 5 / 12, 6 / 12]


def test_a_study_has_the_warm_up_of_its_training():
    assert make_schedule(TrainingSettings(warmup_steps=9)) == WarmUp(9)
