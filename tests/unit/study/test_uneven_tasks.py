"""Tasks of one study may have fewer training rows than it asks for: what is planned then, the same for every arm."""

from __future__ import annotations

from typing import Any

import pytest

from harness.method.registry import methods
from harness.study.config import Study
from harness.study.plan import Inputs, Plan, build_plan

ROWS = {"long": 1000, "short": 87}
STREAMS = {"one": ["long", "short"], "two": ["short", "long"]}


def plan(given: dict[str, Any], rows: dict[str, int] = ROWS, **changes: Any) -> Plan:
    values = {"model": "m", "seeds": [0, 1], "streams": STREAMS, "methods": given,
              "training": {"examples": 320, "batch": 8}, "scoring": {"curve": [16, 160]}}  # fmt: skip
    digests = dict.fromkeys(ROWS, "task")
    inputs = Inputs("model", digests, dict.fromkeys(methods(), "x"), train_rows=rows)
    return build_plan(Study.model_validate(values | changes), methods(), inputs, 8, "s")


def test_every_arm_trains_on_all_of_a_short_task():
    found = plan({name: {} for name in ("frozen", "lora", "lora_ema", "lora_replay", "multitask", "single_task")})
    wanted = {"one": (320, 80), "two": (80, 320)}
    assert {(t.spec.order, t.stage_examples) for t in found.trials} == set(wanted.items())
    assert {t.spec.training["examples"] for t in found.trials} == {320}, "what was asked for"
    assert [found.study.curve(n) for n in (320, 80)] == [(0, 16, 160, 320), (0, 16, 80)]


def test_rows_of_a_pack_take_as_many_steps_at_every_position():
    packs = plan({"lora": {}, "lora_ewc": {}}).packs
    assert [{row.examples for row in pack.rows} for pack in packs] == [{(320, 80)}, {(80, 320)}]
    even = plan({"lora": {}, "lora_ewc": {}}, rows={}).packs
    assert [len(pack.rows) for pack in even] == [8], "as before where all tasks have enough"


def test_a_window_is_a_share_of_its_own_tasks_steps():
    """0.15 of 40 steps are 6; of 10 they are 1.5, and a window has at least 4."""
    (trial, *_) = plan({"lora_ema": {}}).trials
    decays = [trial.recipe_at(place).average.decay for place in range(2)]
    assert decays == pytest.approx([1 - 1 / 6, 1 - 1 / 4])
    assert trial.spec.training["by_task"] == {"ema_decay": decays}
    assert trial.recipe.average.decay == trial.spec.parameters["ema_decay"] == decays[0], "the arm's, on a whole task"
    fixed, plain = plan({"lora_ema": {"ema_decay": 0.9}, "lora": {}}).by_arm.values()
    assert [fixed[0].recipe_at(place).average.decay for place in range(2)] == [0.9, 0.9]
    assert not plain[0].recipes


def test_a_decay_that_is_given_is_another_trial_than_a_window():
    """Both are a window of 10 steps on a whole task, and only one of them is on a short one."""
    (window, *_), (decay, *_) = (
        plan({"lora_ema": given}).trials for given in ({"ema_window": 0.25}, {"ema_decay": 0.9})
    )
    assert window.spec.parameters == decay.spec.parameters
    assert window.fingerprint != decay.fingerprint


def test_where_all_tasks_have_enough_no_trial_changes():
    given = {"lora_ema": {}, "lora_small_a": {}, "lora": {}}
    before, now = (plan(given, rows=rows) for rows in ({}, dict.fromkeys(ROWS, 320)))
    assert before.fingerprints == now.fingerprints
    assert [pack.name for pack in before.packs] == [pack.name for pack in now.packs]
    assert all("by_task" not in trial.spec.training for trial in now.trials)
    assert not any(trial.recipes for trial in now.trials)


def test_averages_that_meet_on_a_short_task_train_apart():
    """Windows of 0.15 and 0.3 are 4 steps of 10 both; 0.8 is 8, and stays apart."""
    given = {"lora": {}, "lora_ema": {"ema_window": [0.15, 0.3, 0.8]}}
    rows = [row for pack in plan(given, seeds=[0], streams={"one": ["long", "short"]}).packs for row in pack.rows]
    settings = sorted(sorted(trial.spec.setting for trial in row.trials) for row in rows)
    assert settings == [["default", "ema_window=0.15", "ema_window=0.8"], ["ema_window=0.3"]]
    even = [row for pack in plan(given, rows={}, seeds=[0], streams={"one": ["long"]}).packs for row in pack.rows]
    assert len(even) == 1
