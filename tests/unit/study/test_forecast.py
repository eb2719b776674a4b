"""Work of a pack, in units of a token's forward pass: what each loss asks for is in it."""

from __future__ import annotations

import pytest

from harness.method.registry import methods
from harness.store.records import BaseRecord
from harness.study import forecast
from harness.study.config import Study
from harness.study.plan import Inputs, build_plan

TASKS = {"a": 50.0, "b": 20.0}
BASE = BaseRecord(key="k", scores={}, train_tokens=TASKS, score_seconds=1.0, peak_memory_gib=1.0)


def units(method: str, **settings) -> float:
    """Of training two seeds on the second task of a stream."""
    study = Study(model="m", seeds=(0, 1), streams={"s": tuple(TASKS)}, methods={method: settings})
    inputs = Inputs("model", dict.fromkeys(TASKS, "task"), {method: "source"})
    (pack,) = build_plan(study, methods(), inputs, 8, "s.yaml").packs
    return forecast.stage_train_units(BASE, pack, 1)


def test_every_part_of_a_loss_is_work():
    tokens = 2 * 512 * TASKS["b"]
    train, teacher, sampling = forecast.TRAIN_UNITS, forecast.TEACHER_UNITS, forecast.SAMPLING_UNITS
    shown = teacher * forecast.DEMONSTRATED
    assert units("lora") == pytest.approx(tokens * train)
    assert units("self_distill") == pytest.approx(tokens * (train + teacher))
    assert units("self_distill", demonstration=True) == pytest.approx(tokens * (train + shown))
    assert units("self_distill", tokens="own") == pytest.approx(tokens * (2 * train + teacher + sampling))
    assert units("sdft", tokens="given") == pytest.approx(tokens * (train + shown))
    assert units("sdft") == units("combined_on_policy") == pytest.approx(tokens * (train + shown + sampling))


def test_before_a_teacher_is_asked_it_costs_nothing():
    recipe = methods()["self_distill"]
    loss = recipe.compose(recipe.settings(tokens="own").resolved(64)).loss
    assert forecast.token_units(loss, taught=False) == forecast.TRAIN_UNITS
