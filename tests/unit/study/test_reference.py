"""Whom arms are compared with: which arm, why, and which are compared at equal settings instead."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import InputError
from harness.method.registry import methods
from harness.store.reference import Reference
from harness.study.arms import expand_arms
from harness.study.config import Study
from harness.study.load import build_study
from harness.study.reference import lines, reference_of, untested, warnings
from harness.study.tuning import Choice, Tuning

A, B = 0.001, 0.002


def study(given: dict[str, Any], **changes: Any) -> Study:
    data = {"name": "s", "model": "m", "seeds": [0, 1, 2], "streams": {"one": ["a", "b"]}, "methods": given}
    return build_study(data | changes, where="s.yaml")


def decided(given: dict[str, Any], tuning: Tuning | None = None, **changes: Any) -> Reference | None:
    of = study(given, **changes)
    return reference_of(of, expand_arms(of, methods(), "s.yaml"), tuning, "s.yaml")


def test_plain_lora_is_the_reference_of_all():
    found = decided({"frozen": {}, "lora": {}, "stable_lora": {"shrink": [0.001, 0.01]}, "lora_ema": {}})
    assert found == Reference(arm="lora", why="it is plain LoRA as the study has it")
    assert (found.partner("lora"), found.partner("lora_ema"), found.partner("frozen")) == (None, "lora", "lora")


def test_grids_are_paired_at_equal_settings():
    found = decided({
        "frozen": {}, "lora": {"learning_rate": [A, B]}, "full_finetune": {"learning_rate": [B, 3e-5]},
        "stable_lora": {"learning_rate": [A, B, 0.005], "shrink": [0.001, 0.01]},
    })  # fmt: skip
    assert found is not None
    assert (found.arm, found.why) == ("lora@learning_rate=0.001", "it is the first of the 2 arms of lora")
    assert found.partners == {
        "full_finetune@learning_rate=0.002": "lora@learning_rate=0.002",
        "stable_lora@learning_rate=0.002,shrink=0.001": "lora@learning_rate=0.002",
        "stable_lora@learning_rate=0.002,shrink=0.01": "lora@learning_rate=0.002",
    }
    assert found.partner("stable_lora@learning_rate=0.001,shrink=0.01") == found.arm
    assert found.partner("stable_lora@learning_rate=0.005,shrink=0.01") == found.arm, "lora has no such arm"
    assert found.partner("lora@learning_rate=0.002") == found.arm
    assert found.partner("frozen") == found.arm, "it has no rate"


def test_settings_are_compared_by_value_and_not_by_name():
    given = {"lora": {}, "lora@hot": {"learning_rate": B}, "lora_ema@warm": {"learning_rate": "2e-3"}, "lora_ema": {}}
    assert decided(given).partners == {"lora_ema@warm": "lora@hot"}


def test_own_adapters_and_regimes_are_settings_too():
    own = {"": {}, "@r2": {"adapter": {"rank": 2}}, "@r": {"between_tasks": "reinit"}, "@n": {"examples": 16}}
    given = {f"{method}{name}": values for method in ("lora", "stable_lora") for name, values in own.items()}
    found = decided(given)
    assert found.arm == "lora"
    assert found.partners == {f"stable_lora@{name}": f"lora@{name}" for name in ("r2", "r", "n")}


def test_arms_are_compared_at_equal_numbers_of_examples():
    found = decided({"lora": {"examples": [512, 16]}, "lora_ema": {"examples": [16, 512]}})
    assert (found.arm, found.partners) == ("lora@examples=512", {"lora_ema@examples=16": "lora@examples=16"})


def test_a_method_may_be_the_reference():
    given = {"lora": {"learning_rate": [A, B]}, "stable_lora": {"learning_rate": [B, A]}}
    found = decided(given, reference="stable_lora")
    assert (found.arm, found.partners) == (
        "stable_lora@learning_rate=0.002", {"lora@learning_rate=0.001": "stable_lora@learning_rate=0.001"})  # fmt: skip
    one = decided(given, reference="lora@learning_rate=0.002")
    assert one == Reference(arm="lora@learning_rate=0.002", why="the study names it"), "one arm for all"


def test_the_best_on_validation_comes_before_the_first():
    given = {"lora": {"learning_rate": [A, B]}, "stable_lora": {}}
    found = decided(given, tuning_of({A: 0.5, B: 0.6}))
    assert (found.arm, found.why) == ("lora@learning_rate=0.002", "of the 2 arms of lora it is the best on validation")
    for left in ({A: 0.5}, {A: 0.5, B: None}):
        assert decided(given, tuning_of(left)).arm == "lora@learning_rate=0.001", "not all of them have been tuned"


def tuning_of(scores: dict[float, float | None]) -> Tuning:
    """The outcome of tuning arms of ``lora`` with these rates: their scores on validation."""
    arms = {
        f"lora@learning_rate={rate}": Choice(settings={}, score=score, tried=5, grid=5, metric="m", digest="d")
        for rate, score in scores.items()
    }
    return Tuning(study="s", seeds=(9,), settings=5, arms=arms, tries=())


@pytest.mark.parametrize(("name", "what", "remedy"), [
    ("lroa", "unknown arm 'lroa'", "did you mean 'lora'"),
    ("lora@learning_rate=0.005", "unknown arm", "did you mean 'lora@learning_rate=0.00"),
    ("frozen", "'frozen' is a control", "name another arm (lora@learning_rate=0.001, lora@learning_rate=0.002)"),
    ("full_finetune", "'full_finetune' is a control", "name another arm"),
])  # fmt: skip
def test_a_reference_that_is_no_arm_or_a_control(name, what, remedy):
    given = {"lora": {"learning_rate": [A, B]}, "frozen": {}, "full_finetune": {}}
    with pytest.raises(InputError) as error:
        decided(given, reference=name)
    assert error.value.where == "s.yaml:reference"
    assert error.value.what.startswith(what)
    assert remedy in str(error.value.remedy)


@pytest.mark.parametrize(("given", "changes", "text"), [
    ({"stable_lora": {}, "frozen": {}}, {}, "there is no arm of lora to compare with; name one with `reference: ARM`"),
    ({"lora": {}}, {}, "there is one arm"),
    ({"lora": {}, "stable_lora": {}}, {"seeds": [0, 1]}, "with 2 seeds no arm is ranked"),
    ({"lora": {}, "stable_lora": {}}, {"seeds": [0]}, "with 1 seed no arm is ranked"),
    ({"lora": {}, "stable_lora": {}}, {}, ""),
    ({"lora": {"learning_rate": [A, B]}}, {}, ""),
    ({"stable_lora": {}, "lora_ema": {}}, {"reference": "lora_ema"}, ""),
])  # fmt: skip
def test_it_is_said_where_nothing_will_be_tested(given, changes, text):
    of = study(given, **changes)
    arms = expand_arms(of, methods(), "s.yaml")
    said = untested(of, arms, reference_of(of, arms, None, "s.yaml"))
    assert said.startswith("nothing will be tested: " if text else "")
    assert text in said
    assert bool(said) == bool(text)


def test_a_control_may_have_rows_and_that_is_said():
    of = study({"lora": {"learning_rate": [A, B]}, "full_finetune": {"learning_rate": [A, B]}, "multitask": {}})
    arms = expand_arms(of, methods(), "s.yaml")
    (said,) = warnings(of, arms, reference_of(of, arms, None, "s.yaml"))
    assert said.startswith("controls with several rows: full_finetune (2);")
    alone = study({"stable_lora": {}}, seeds=[0])
    (said,) = warnings(alone, expand_arms(alone, methods(), "s.yaml"), None)
    assert said.startswith("nothing will be tested: there is no arm of lora")


def test_the_lines_for_a_person():
    assert lines(None) == ("compared with: nothing",)
    found = Reference(arm="lora@a", why="it is the first", partners={f"x@{n}": "lora@b" for n in range(3)})
    assert lines(found, most=2) == (
        "compared with: lora@a (it is the first)", "at equal settings: x@0 with lora@b, x@1 with lora@b and 1 more",
    )  # fmt: skip
