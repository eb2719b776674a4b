"""Arms that train on examples of their own number: separate trainings on one board."""

from __future__ import annotations

import json
import math
from typing import Any

import campaigns
import pytest
from campaigns import TOY

from harness.errors import InputError
from harness.method.registry import methods
from harness.store.results import read_base, read_trials
from harness.study import forecast, search
from harness.study.config import Study
from harness.study.overrides import differences
from harness.study.plan import Inputs, Plan, build_plan

TASKS = ("a", "b")


def plan(given: dict[str, Any], **changes: Any) -> Plan:
    values = {"model": "m", "seeds": (0, 1), "streams": {"s": TASKS}, "methods": given,
              "training": {"examples": 64, "batch": 8}, "scoring": {"curve": [16, 32]}}  # fmt: skip
    study = Study.model_validate(values | changes)
    return build_plan(
        study, methods(), Inputs("model", dict.fromkeys(TASKS, "task"), dict.fromkeys(methods(), "x")), 8, "s"
    )


def test_a_list_makes_rows_that_never_share_a_pack():
    found = plan({"lora": {"examples": [16, 64]}})
    assert list(found.by_arm) == ["lora@examples=16", "lora@examples=64"]
    assert sorted((pack.examples, len(pack.rows)) for pack in found.packs) == [((16, 16), 2), ((64, 64), 2)]
    few, many = found.packs
    assert [row.data_seeds for row in few.rows] == [row.data_seeds for row in many.rows]
    assert differences(found.study, few.trials[0].spec.training) == {"examples": 16}
    assert differences(found.study, many.trials[0].spec.training) == {}


def test_what_depends_on_a_task_s_steps_goes_by_the_arm_s_own():
    """lora_small_a shrinks over the steps of one task."""
    found = plan({"lora_small_a": {"examples": [16, 64]}})
    assert [trials[0].spec.parameters["shrink_steps"] for trials in found.by_arm.values()] == [2, 8]


def test_tuning_grids_go_by_the_arm_s_own_steps():
    study = plan({"lora_ema": {"examples": [16, 64]}}).study
    few, many = search.lay_out(study, methods(), "s")
    assert (few.fixed, many.fixed) == ({"examples": 16}, {"examples": 64})
    grids = [methods()["lora_ema"].settings.grid(steps) for steps in (2, 8)]
    assert [few.grid, many.grid] == [math.prod(map(len, grid.values())) for grid in grids]


def test_the_number_of_examples_is_not_tuned():
    study = plan({"lora": {}}, tuning={"grids": {"lora": {"examples": [16, 32]}}}).study
    with pytest.raises(InputError, match="more training data are no better setting"):
        search.lay_out(study, methods(), "s")


def test_a_curve_ends_at_the_arm_s_examples():
    study = plan({"lora": {}}).study
    assert [study.curve(n) for n in (8, 16, 24, 64)] == [(0, 8), (0, 16), (0, 16, 24), (0, 16, 32, 64)]


@pytest.mark.parametrize(
    ("given", "where", "words"),
    [
        ({"lora": {"examples": 20}}, "s:methods.lora", "must be a multiple of batch"),
        ({"lora": {"examples": [16, "x"]}}, "s:methods.lora.examples", "must be a whole number"),
        ({"lora": {"examples": 0}}, "s:methods.lora.examples", "must be a whole number"),
        ({"frozen": {"examples": 16}}, "s:methods.frozen.examples", "trains nothing"),
    ],
)
def test_a_wrong_number_names_its_place(given, where, words):
    with pytest.raises(InputError, match=words) as error:
        plan(given)
    assert error.value.where == where


@pytest.fixture(scope="module")
def done(shared_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(shared_cache))
        study = TOY | {"methods": {"frozen": {}, "lora": {"examples": [16, 32]}}, "training": {"examples": 32},
                       "scoring": {"items": 8, "curve": [16]}}  # fmt: skip
        found = campaigns.load(campaigns.write_study(folder, study), folder / "out")
        campaigns.run(found)
        yield found


def test_fewer_examples_are_the_first_of_more(done):
    records = {record.spec.arm: record for record in read_trials(done.folder).records}
    few, many = records["lora@examples=16"], records["lora@examples=32"]
    assert [record.spec.training["examples"] for record in (few, many)] == [16, 32]
    assert len(few.train_loss[0]) == 2
    assert few.train_loss[0].tolist() == pytest.approx(many.train_loss[0].tolist()[:2], rel=1e-5)
    assert [curve.examples for curve in few.curves] == [(0, 16), (0, 16)]
    assert [curve.examples for curve in many.curves] == [(0, 16, 32), (0, 16, 32)]
    assert records["frozen"].curves[0].examples == (0, 16, 32)


def test_the_forecast_knows_the_arm_s_examples(done):
    base = read_base(done.folder, json.loads((done.folder / "base.json").read_text())["key"])
    few, many = (forecast.stage_train_units(base, pack, 0) for pack in done.plan.packs)
    assert 2 * few == pytest.approx(many)


def test_of_a_task_with_fewer_rows_an_arm_takes_all(tmp_path, in_shared_cache):
    study = TOY | {"methods": {"lora": {"examples": [16, 80_000]}}, "training": {"examples": 32}}
    found = campaigns.load(campaigns.write_study(tmp_path, study), tmp_path / "out")
    assert sorted(pack.examples for pack in found.plan.packs) == [(16, 16), (512, 512)]
    (note,) = (line for line in found.remarks if "80000 examples" in line)
    assert note.endswith("toy_recall 512, toy_digits 512")
