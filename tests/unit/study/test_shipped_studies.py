"""The studies that ship: each loads, plans, asks one question and is listed."""

from __future__ import annotations

import re

import pytest
from places import ROOT

from harness.method.registry import methods
from harness.running.claimed import claims_of
from harness.study import search
from harness.study.arms import expand_arms
from harness.study.config import Study
from harness.study.load import load_study
from harness.study.plan import Inputs, Plan, build_plan
from harness.study.reference import reference_of

FILES = sorted((ROOT / "tasks" / "studies").glob("*.yaml"))
#: Those whose model and tasks `lorabench fetch` makes from pinned packages.
OWN = [path for path in FILES if "published:" not in path.read_text()]


def planned(study: Study, where: str) -> Plan:
    inputs = Inputs("model", dict.fromkeys((*study.tasks, *study.probes), "task"), dict.fromkeys(methods(), "source"))
    return build_plan(study, methods(), inputs, 16, where)


def of(name: str) -> Study:
    return load_study(ROOT / "tasks" / "studies" / f"{name}.yaml")


@pytest.mark.parametrize("file", FILES, ids=[path.stem for path in FILES])
def test_it_plans_and_asks_one_question(file):
    study = load_study(file)
    assert planned(study, str(file)).trials
    assert study.title.count("?") == 1
    assert study.title.endswith("?")
    first = next(line for line in file.read_text().splitlines() if not line.startswith("# yaml-language-server"))
    assert re.match(r"# [A-Z]((?!\. ).)*\?(  |$)", first), "the first line asks it, before anything else is said"


def test_every_list_of_claims_is_a_study_s_and_has_its_arms():
    studies = [study for study in map(load_study, FILES) if study.claims]
    assert {path.stem for path in (ROOT / "tasks" / "claims").iterdir()} == {study.claims for study in studies}
    for study in studies:
        arms = {arm.name for arm in expand_arms(study, methods(), study.name)}
        for claim in claims_of(study, methods(), study.name):
            assert {*claim.arm, *([claim.against] if claim.against else [])} <= arms


@pytest.mark.parametrize("source", [
    "2603.05204", "2601.19897", "2607.01763", "2405.09673", "2603.27707", "2410.21228", "EMA on LoRA", "2602.04998",
])  # fmt: skip
def test_the_disputes_of_the_field_stand_on_the_board_of_all(source):
    found = [claim for claim in claims_of(of("core_arms"), methods(), "core_arms") if source in claim.source]
    assert found
    assert len({claim.claim for claim in found}) == len(found)


@pytest.mark.parametrize("file", OWN, ids=[path.stem for path in OWN])
def test_its_tasks_and_model_ship(file):
    study = load_study(file)
    folders = {path.name for path in (ROOT / "tasks").iterdir() if (path / f"{path.name}.yaml").exists()}
    assert {*study.tasks, *study.probes} <= folders
    assert study.model in ("smollm2-135m-instruct", "tiny-random-llama")


@pytest.mark.parametrize("file", OWN, ids=[path.stem for path in OWN])
def test_it_can_say_something(file):
    """From six pairs a sign-flip test can reject; headroom and smoke ask whether things work at all."""
    study = load_study(file)
    pairs = len(study.streams) * len(study.seeds)
    assert pairs >= 6 or study.name in ("headroom", "smoke")


@pytest.mark.parametrize("file", OWN, ids=[path.stem for path in OWN])
def test_it_has_an_arm_of_plain_lora(file):
    arms = planned(load_study(file), str(file)).by_arm
    assert "lora" in arms or any(arm.startswith("lora@") for arm in arms)


def test_core_is_the_headline_with_its_controls():
    study = of("core")
    assert (len(study.streams), len(study.seeds)) == (3, 10)
    controls = {name for name in study.methods if methods()[name].control}
    assert controls == {"frozen", "multitask", "full_finetune"}
    assert set(study.methods) - controls == {"lora", "stable_lora", "lora_ema", "self_distill", "combined"}


def test_core_arms_has_every_method():
    assert set(of("core_arms").methods) == {name for name, method in methods().items() if method.name == name}


def test_core_arms_takes_the_stream_of_core():
    assert of("core_arms").streams == of("core").streams


def test_low_data_has_a_training_for_every_number():
    arms = planned(of("low_data"), "low_data").by_arm
    asked = {trials[0].examples for arm, trials in arms.items() if arm.startswith("combined")}
    assert asked == {16, 32, 64, 128, 256, 512}
    assert len(arms) == 1 + 5 * 6


@pytest.mark.parametrize(
    ("name", "arm", "partner"),
    [
        ("low_data", "combined@examples=16", "lora@examples=16"),
        ("low_data", "frozen", "lora@examples=512"),
        ("ablate_stable", "stable_lora@fresh,shrink=0.001", "lora@fresh"),
        ("intruders", "lora_plus@learning_rate=0.0005", "lora"),
        ("ablate_rate", "full_finetune@learning_rate=0.003", "lora@rate,learning_rate=0.003"),
    ],
)
def test_an_arm_is_compared_at_equal_settings(name, arm, partner):
    study = of(name)
    reference = reference_of(study, expand_arms(study, methods(), name), None, name)
    assert reference is not None
    assert reference.partner(arm) == partner


@pytest.mark.parametrize("name", ["core", "core_arms", "quick"])
def test_a_tuned_study_can_be_tuned(name):
    study = of(name)
    searches = search.lay_out(study, methods(), name)
    assert sum(bool(search.tries) for search in searches) >= 3
    assert search.tuning_study(study, searches, name).scoring.split == "validation"


def test_the_page_of_studies_lists_every_one():
    listed = set(re.findall(r"`([a-z0-9_]+)`", (ROOT / "docs" / "studies.md").read_text()))
    assert {path.stem for path in FILES} <= listed
