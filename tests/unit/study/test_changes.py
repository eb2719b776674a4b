"""What has changed since the records were written, in lines."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from harness.method.registry import methods
from harness.store.records import TrialSpec
from harness.study.arms import arm_names, expand_arms
from harness.study.changes import Changes, changes
from harness.study.config import Study
from harness.study.load import build_study
from harness.study.plan import Inputs, Plan, build_plan


@dataclass(frozen=True)
class Record:
    fingerprint: str
    spec: TrialSpec


def study(given: dict, examples: int = 16) -> Study:
    data = {"name": "s", "model": "m", "seeds": [0], "streams": {"o": ["a", "b"]}, "methods": given,
            "training": {"examples": examples, "batch": 8}}  # fmt: skip
    return build_study(data, where="s.yaml")


def plan(of: Study) -> Plan:
    digests = Inputs("model", dict.fromkeys("ab", "task"), dict.fromkeys(methods(), "source"))
    return build_plan(of, methods(), digests, 8, "s.yaml")


def test_what_is_set_aside_comes_in_the_studys_order():
    arms = {"stable_lora": {"shrink": [0.1, 0.01]}, "lora": {}, "frozen": {}, "dora": {}}
    records = [Record(trial.fingerprint, trial.spec) for trial in plan(study({"olora": {}, "eva": {}, **arms})).trials]
    told = changes(plan(study(arms, 24)), reversed(records)).lines[1:]
    named = [line.split("'")[1] for line in told]
    assert named == ["stable_lora@shrink=0.1", "stable_lora@shrink=0.01", "lora", "frozen", "dora", "eva", "olora"]


@pytest.mark.parametrize(("count", "said"), [
    (1, "1 record in superseded/ fits again"), (1200, "1,200 records in superseded/ fit again"),
])  # fmt: skip
def test_what_comes_back_is_counted(count, said):
    assert Changes({}, ("f",) * count).lines == (f"{said} and will be taken back",)


def test_arms_are_named_without_looking_at_their_methods():
    of = study({"lora@hot": {"learning_rate": 1e-3}, "stable_lora@x": {"shrink": [0.1, 0.01]}, "frozen": {}})
    assert arm_names(of) == [arm.name for arm in expand_arms(of, methods(), "s.yaml")]
    assert arm_names(study({"not_there": {"of": [1, 2]}})) == ["not_there@of=1", "not_there@of=2"]
