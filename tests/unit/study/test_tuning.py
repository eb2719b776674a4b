"""Equal tuning: which settings are tried, on what, which is chosen, and what becomes of it."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import campaigns
import pytest
from campaigns import TOY

from harness.errors import InputError
from harness.method.recipe import MethodSettings
from harness.method.registry import methods
from harness.running import campaign
from harness.store import write_trial
from harness.store.records import Failure, TaskScores, TrialRecord
from harness.store.tuning import Choice, Tuning, read_tuning, write_tuning
from harness.study import tuning
from harness.study.arms import expand_arms
from harness.study.config import Study
from harness.study.load import build_study
from harness.study.plan import Inputs, Plan, build_plan
from harness.study.search import Search, tuning_study
from harness.study.search import lay_out as search_all

RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3)
FIVE = {"frozen": {}, "lora": {}, "stable_lora": {}, "lora_ema": {}, "self_distill": {}}


def study(given: dict | None = None, **changes: Any) -> Study:
    data = {"name": "s", "model": "m", "seeds": [0, 1], "streams": {"one": ["a", "b"], "two": ["b", "a"]},
            "probes": ["probe"], "methods": FIVE if given is None else given}  # fmt: skip
    return build_study(data | changes, where="s.yaml")


def inputs(**changes: Any) -> Inputs:
    values = {"model_digest": "model", "task_digests": {t: f"digest {t}" for t in ("a", "b", "probe")},
              "method_digests": {name: f"source of {name}" for name in methods()}}  # fmt: skip
    return Inputs(**(values | changes))


def lay_out(given: dict | None = None, **changes: Any) -> dict[str, Search]:
    return {search.arm: search for search in search_all(study(given, **changes), methods(), "s.yaml")}


def laid_out(of: Study) -> tuple[tuple[Search, ...], Plan]:
    searches = search_all(of, methods(), "s.yaml")
    return searches, build_plan(tuning_study(of, searches, "s.yaml"), methods(), inputs(), 8, "s.yaml")


def settings(search: Search) -> list[dict]:
    return [dict(entry.values) for entry in search.tries]


# -- which settings ---------------------------------------------------------------------------------------------------


def test_every_arm_gets_as_many_settings():
    found = lay_out()
    assert list(found) == list(FIVE)
    assert {name: len(search.tries) for name, search in found.items()} == {
        "frozen": 0, "lora": 5, "stable_lora": 5, "lora_ema": 5, "self_distill": 5
    }  # fmt: skip
    assert {name: search.grid for name, search in found.items()} == {
        "frozen": 1, "lora": 5, "stable_lora": 15, "lora_ema": 15, "self_distill": 10
    }  # fmt: skip
    assert settings(found["lora"]) == [{"learning_rate": rate} for rate in RATES]


def test_a_grid_is_not_multiplied_out_beyond_its_limit():
    values = [n / 1e4 for n in range(1, 201)]
    given = {"lora": {"learning_rate": [0.1, 0.2]}}
    grids = {"lora": {"a_scale": values, "b_ratio": values}}
    with pytest.raises(InputError, match="have 80,000 points") as error:
        lay_out(given, tuning={"grids": grids})
    assert error.value.where == "s.yaml:tuning.grids.lora"


def test_a_tuning_study_is_not_larger_than_a_study_may_be():
    of = study({"lora": {}}, tuning={"seeds": list(range(1000, 6000))})
    with pytest.raises(InputError, match="50,000 trials") as error:
        tuning_study(of, search_all(of, methods(), "s.yaml"), "s.yaml")
    assert error.value.where == "s.yaml:tuning"


def test_the_whole_grid_where_it_fits():
    found = lay_out({"stable_lora": {}}, tuning={"settings": 15})["stable_lora"]
    assert settings(found) == [
        {"learning_rate": rate, "shrink": shrink} for rate in RATES for shrink in (5e-4, 1e-3, 5e-3)
    ]
    assert lay_out({"stable_lora": {}}, tuning={"settings": 99})["stable_lora"].tries == found.tries


@pytest.mark.parametrize("count", [2, 3, 5, 7, 11, 14])
def test_a_choice_is_even_over_the_rates(count):
    chosen = settings(lay_out({"stable_lora": {}}, tuning={"settings": count})["stable_lora"])
    assert len(chosen) == count
    uses = Counter(values["learning_rate"] for values in chosen)
    assert max(uses.values()) - min(uses[rate] for rate in RATES) <= 1


def test_a_choice_depends_on_the_root_seed_and_on_nobody_else():
    alone = lay_out({"stable_lora": {}})["stable_lora"].tries
    assert lay_out()["stable_lora"].tries == alone
    others = [lay_out({"stable_lora": {}}, root_seed=seed)["stable_lora"].tries for seed in range(5)]
    assert any(tries != alone for tries in others)


def test_arms_with_the_same_grid_try_the_same_points():
    grid = {"learning_rate": [0.1, 0.2, 0.3, 0.4]}
    found = lay_out({"lora": {}, "rslora": {}}, tuning={"settings": 2, "grids": {"lora": grid, "rslora": grid}})
    assert settings(found["lora"]) == settings(found["rslora"])


def test_what_the_study_fixes_is_not_tuned():
    found = lay_out({"lora": {"learning_rate": 0.1}, "stable_lora": {"learning_rate": 0.1}})
    assert found["lora"].tries == ()
    assert settings(found["stable_lora"]) == [{"shrink": shrink} for shrink in (5e-4, 1e-3, 5e-3)]


def test_a_decay_that_is_fixed_is_a_window_that_is_fixed():
    found = lay_out({"lora_ema": {"ema_decay": 0.9}, "lora_ema@window": {"ema_window": 0.1}})
    assert [settings(search) for search in found.values()] == [[{"learning_rate": rate} for rate in RATES]] * 2


def test_a_regime_between_tasks_may_be_tuned():
    own = {"lora": {"learning_rate": [0.1], "between_tasks": ["reinit", "continue"]}}
    of = study({"lora": {}}, tuning={"grids": own})
    (search,), plan = laid_out(of)
    assert [entry.changed for entry in search.tries] == [2, 1], "going on is what the study does by itself"
    regimes = {trial.spec.arm: trial.spec.training["between_tasks"] for trial in plan.trials}
    assert regimes == {
        "lora@learning_rate=0.1,between_tasks=reinit": "reinit",
        "lora@learning_rate=0.1,between_tasks=continue": "continue",
    }
    records = [record(t, [0.9 if t.spec.training["between_tasks"] == "reinit" else 0.5] * 2) for t in plan.trials]
    chosen = tuning.with_chosen(of, [search], tuning.judge("s", plan, [search], records))
    assert chosen.methods == {"lora": {"learning_rate": 0.1, "between_tasks": "reinit"}}


def test_a_grid_of_the_study_goes_before_all():
    own = {"lora": {"learning_rate": [0.1, 0.2]}}
    found = lay_out({"lora": {"learning_rate": 0.2}, "lora@hot": {}}, tuning={"grids": own})
    assert settings(found["lora"]) == [{"learning_rate": 0.1}, {"learning_rate": 0.2}]
    assert [entry.changed for entry in found["lora"].tries] == [1, 0]
    assert [entry.arm for entry in found["lora@hot"].tries] == [f"lora@hot,learning_rate={rate}" for rate in RATES]


def test_every_row_of_an_ablation_is_tuned_by_itself():
    found = lay_out({"stable_lora": {"shrink": [0.1, 0.2]}})
    assert list(found) == ["stable_lora@shrink=0.1", "stable_lora@shrink=0.2"]
    assert found["stable_lora@shrink=0.2"].tries[0].arm == "stable_lora@shrink=0.2,learning_rate=0.0001"
    assert [settings(search) for search in found.values()] == [[{"learning_rate": rate} for rate in RATES]] * 2


@pytest.mark.parametrize(("given", "changes", "where", "text"), [
    ({"lora": {}}, {"seeds": [0, 7], "tuning": {"seeds": [7, 8]}}, "tuning.seeds", "seed 7 is one of the study's own"),
    ({"lora": {}}, {"tuning": {"grids": {"lora": {"learning_rte": [1, 2]}}}}, "tuning.grids.lora.learning_rte",
     "unknown setting"),
    ({"lora": {}}, {"tuning": {"grids": {"lora": {"learning_rate": [0.1, -1]}}}}, "tuning.grids.lora.learning_rate",
     "greater than 0"),
    ({"lora": {}}, {"tuning": {"grids": {"lora": {"learning_rate": [0.1, 0.2, 0.1]}}}},
     "tuning.grids.lora.learning_rate", "the value 0.1 stands here twice"),
    ({"lora": {}}, {"tuning": {"grids": {"lora": {"learning_rate": [0.001, "1e-3"]}}}},
     "tuning.grids.lora.learning_rate", "the value '1e-3' stands here twice"),
    ({"lora": {"learning_rate": [1, 0.5, 1.0]}}, {}, "methods.lora.learning_rate", "the value 1.0 stands here twice"),
    ({"lora": {}, "frozen": {}}, {"tuning": {"grids": {"frozen": {"learning_rate": [0.1, 0.2]}}}},
     "tuning.grids.frozen", "'frozen' trains nothing"),
    ({"stable_lora": {"shrink": [0.1, 0.2]}}, {"tuning": {"grids": {"stable_lora": {"shrink": [0.1]}}}},
     "tuning.grids.stable_lora.shrink", "row of the board"),
    ({"lora": {}}, {"tuning": {"grids": {"lora": {"between_tasks": ["continue", "restart"]}}}},
     "tuning.grids.lora.between_tasks", "'continue' or 'reinit'"),
    ({"o_lora": {}}, {"tuning": {"grids": {"o_lora": {"between_tasks": ["continue", "reinit"]}}}},
     "tuning.grids.o_lora.between_tasks", "decides by itself"),
    ({"lora": {"between_tasks": ["reinit"]}}, {"tuning": {"grids": {"lora": {"between_tasks": ["reinit"]}}}},
     "tuning.grids.lora.between_tasks", "row of the board"),
    ({"lora_ema": {}}, {"tuning": {"grids": {"lora_ema": {"ema_window": [0.1, 3]}}}},
     "tuning.grids.lora_ema.ema_window", "longer than a stream of 2"),
    ({"lora_ema": {"ema_decay": 0.9}}, {"tuning": {"grids": {"lora_ema": {"ema_window": [0.1]}}}},
     "tuning.grids.lora_ema.ema_window", "ema_decay is one, too"),
])  # fmt: skip
def test_errors_name_file_and_key(given, changes, where, text):
    with pytest.raises(InputError, match=text) as error:
        lay_out(given, **changes)
    assert error.value.where == f"s.yaml:{where}"
    assert error.value.remedy


def test_a_tuning_seed_counts_once():
    with pytest.raises(InputError, match="the seed 100 stands here twice") as error:
        study({"lora": {}}, tuning={"seeds": [100, 100]})
    assert error.value.where == "s.yaml:tuning.seeds"


def test_a_control_that_trains_is_tuned_as_any_other():
    found = lay_out({"lora": {}, "full_finetune": {}, "multitask": {}})
    assert [len(each.tries) for each in found.values()] == [5, 5, 5]


def test_values_of_a_grid_are_as_the_method_reads_them():
    found = lay_out({"lora": {}}, tuning={"grids": {"lora": {"learning_rate": ["1e-3", "2e-3"]}}})["lora"]
    assert settings(found) == [{"learning_rate": 0.001}, {"learning_rate": 0.002}]


def test_a_grid_for_nobody_is_an_error():
    with pytest.raises(InputError, match="names 'lorra', which is not a key of methods"):
        study({"lora": {}}, tuning={"grids": {"lorra": {"learning_rate": [1.0]}}})


def test_nothing_to_tune_is_an_error():
    of = study({"frozen": {}, "lora": {"learning_rate": 0.1}})
    with pytest.raises(InputError, match="no method of this study has more than one setting"):
        tuning_study(of, search_all(of, methods(), "s.yaml"), "s.yaml")


@pytest.mark.parametrize("name", list(methods()))
def test_every_methods_own_grid_is_of_its_own_settings(name):
    """At most one beside the rate, which comes first; all of them valid, whatever the steps."""
    kind = methods()[name].settings
    for steps in (1, 12, 64, 2000):
        grid = kind.grid(steps)
        if issubclass(kind, MethodSettings):
            assert next(iter(grid)) == "learning_rate"
        assert len(grid) <= 2
        for key, values in grid.items():
            assert len(set(values)) == len(values)
            for value in values:
                assert getattr(kind.model_validate({key: value}).resolved(steps), key) == value


# -- the tuning study -------------------------------------------------------------------------------------------------


def test_no_trial_of_the_tuning_is_a_trial_of_the_study():
    of = study()
    _, plan = laid_out(of)
    ours, theirs = build_plan(of, methods(), inputs(), 8, "s.yaml").trials, plan.trials
    assert {t.fingerprint for t in ours}.isdisjoint(t.fingerprint for t in theirs)
    assert {t.spec.seed for t in ours}.isdisjoint(t.spec.seed for t in theirs)
    assert {t.spec.scoring["split"] for t in theirs} == {"validation"}
    assert {t.spec.order for t in theirs} == {"one", "two"}
    assert {t.spec.probes for t in theirs} == {()}
    theirs = {(row.init_seed, row.data_seeds) for pack in plan.packs for row in pack.rows}
    packs = build_plan(of, methods(), inputs(), 8, "s.yaml").packs
    assert theirs.isdisjoint((row.init_seed, row.data_seeds) for pack in packs for row in pack.rows)


def test_training_is_the_studys_own():
    of = study(training={"examples": 256}, adapter={"rank": 4}, dtype="float32")
    trial = laid_out(of)[1].trials[0]
    assert trial.spec.training == build_plan(of, methods(), inputs(), 8, "s.yaml").trials[0].spec.training
    assert not trial.spec.tuned


# -- what is chosen ---------------------------------------------------------------------------------------------------


def record(trial, final: list[float] | None, learnt: float = 0.5) -> TrialRecord:
    """A trial of two tasks with this last row of its matrix; none: it diverged."""
    tasks = {
        name: TaskScores(metric="acc", higher_is_better=True, items=8, chance=None, stderr=(None,) * 3,
                         score=(0.1, learnt, (final or [0.0] * 2)[i]))
        for i, name in enumerate(trial.spec.stream)
    }  # fmt: skip
    return TrialRecord(
        fingerprint=trial.fingerprint, study="s-tuning", status="ok" if final else "diverged", spec=trial.spec,
        facts=trial.facts, stack={}, tasks=tasks,
        failure=None if final else Failure(phase="train", message="not finite"),
    )  # fmt: skip


def judged(of: Study, finals: dict[str, list[list[float] | None]], **more: Any) -> Tuning:
    """``finals`` has the last rows of the trials of each try, in the plan's order."""
    searches, plan = laid_out(of)
    queue = {arm: list(rows) for arm, rows in finals.items()}
    records = [record(trial, queue[trial.spec.arm].pop(0), **more) for trial in plan.trials]
    return tuning.judge("s", plan, searches, records)


GRID = {"grids": {"lora": {"learning_rate": [0.1, 0.2, 0.3]}}, "seeds": [8, 9]}
ONE = {"streams": {"one": ["a", "b"]}}


def three(**changes: Any) -> Study:
    return study({"lora": {}}, **(ONE | {"tuning": GRID} | changes))


def outcome(*rows: list[list[float] | None]) -> dict[str, list[list[float] | None]]:
    return {f"lora@learning_rate={rate}": list(row) for rate, row in zip((0.1, 0.2, 0.3), rows, strict=True)}


def test_the_highest_mean_is_chosen():
    found = judged(three(), outcome([[0.5, 0.7], [0.6, 0.6]], [[0.2, 1.0], [0.8, 0.8]], [[0.5, 0.5], [0.7, 0.7]]))
    assert found.arms["lora"].settings == {"learning_rate": 0.2}
    assert (found.arms["lora"].tried, found.arms["lora"].grid) == (3, 3)
    scores = {row["setting"]: row["score"] for row in found.tries}
    assert scores == pytest.approx({"learning_rate=0.1": 0.6, "learning_rate=0.2": 0.7, "learning_rate=0.3": 0.6})
    assert [row["chosen"] for row in found.tries] == [row["best"] for row in found.tries] == [False, True, False]
    # 0.6 and 0.8: the error of their mean is 0.1
    assert found.tries[1]["standard_error"] == pytest.approx(0.1)


def test_a_choice_at_an_end_of_what_was_tried_is_marked():
    best, rest = [[0.9, 0.9]] * 2, [[0.5, 0.5]] * 2
    ends = [judged(three(), outcome(*rows)).arms["lora"].ends for rows in
            ((best, rest, rest), (rest, best, rest), (rest, rest, best))]  # fmt: skip
    assert ends == [("learning_rate=0.1",), (), ("learning_rate=0.3",)]
    of_two = three(tuning=GRID | {"grids": {"lora": {"learning_rate": [0.1, 0.2]}}})
    both = {f"lora@learning_rate={rate}": rows for rate, rows in ((0.1, rest), (0.2, best))}
    assert judged(of_two, both).arms["lora"].ends == (), "of two values one is always at an end"


def test_of_equal_ones_the_first_that_changes_least():
    row = [[0.5, 0.5], [0.5, 0.5]]
    found = judged(three(), outcome(row, row, row))
    assert found.arms["lora"].settings == {"learning_rate": 0.1}
    assert [r["best"] for r in found.tries] == [True] * 3
    fixed = study({"lora": {"learning_rate": 0.3}}, **ONE, tuning=GRID)
    assert judged(fixed, outcome(row, row, row)).arms["lora"].settings == {"learning_rate": 0.3}


def test_the_last_bit_of_a_sum_decides_nothing():
    found = judged(three(), outcome([[0.1, 0.2], [0.3, 0.3]], [[0.1, 0.2], [0.3, 0.3 + 1e-12]], [[0.0, 0.0]] * 2))
    assert found.arms["lora"].settings == {"learning_rate": 0.1}
    assert [row["best"] for row in found.tries] == [True, True, False]


def test_a_setting_that_diverged_once_is_never_chosen():
    found = judged(three(), outcome([[0.9, 0.9], None], [[0.2, 0.2]] * 2, [[0.1, 0.1]] * 2))
    assert found.arms["lora"].settings == {"learning_rate": 0.2}
    assert [row["diverged"] for row in found.tries] == [1, 0, 0]
    assert found.tries[0]["score"] is None


def test_where_every_setting_diverged_nothing_is_chosen():
    found = judged(three(), outcome(*[[None, None]] * 3))
    assert found.arms["lora"].settings is None
    searches = search_all(three(), methods(), "s.yaml")
    (arm,) = expand_arms(tuning.with_chosen(three(), searches, found), methods(), "s.yaml")
    assert arm.settings.learning_rate == 5e-4


def test_an_arm_that_starts_afresh_is_judged_by_what_it_learns():
    """Its last adapter knows one task: the average over the stream says nothing about the rate."""
    of = study({"single_task": {}}, **ONE, tuning={"grids": {"single_task": {"learning_rate": [0.1, 0.2]}}})
    searches, plan = laid_out(of)
    learnt = {"single_task@learning_rate=0.1": 0.2, "single_task@learning_rate=0.2": 0.9}
    records = [record(t, [0.9, 0.9] if "0.1" in t.spec.arm else [0.1, 0.9], learnt[t.spec.arm]) for t in plan.trials]
    found = tuning.judge("s", plan, searches, records)
    assert found.arms["single_task"].settings == {"learning_rate": 0.2}
    assert {row["metric"] for row in found.tries} == {"learning_accuracy"}
    assert searches[0].metric == "learning_accuracy"


# -- what becomes of it -----------------------------------------------------------------------------------------------


def test_the_study_takes_what_was_chosen():
    of = three(methods={"lora": {}, "stable_lora": {"shrink": [0.1, 0.2], "learning_rate": 0.5}, "frozen": {}})
    searches = search_all(of, methods(), "s.yaml")
    choice = Choice(settings={"learning_rate": 0.2}, tried=3, grid=3, metric="average_accuracy", digest="d")
    found = Tuning(study="s", seeds=(8,), settings=5, arms={"lora": choice}, tries=())
    plan = build_plan(tuning.with_chosen(of, searches, found), methods(), inputs(tuned={"lora": 3}), 8, "s.yaml")
    untuned = build_plan(of, methods(), inputs(), 8, "s.yaml")
    assert list(plan.expected) == list(untuned.expected)
    specs = {t.spec.arm: t.spec for t in plan.trials}
    assert specs["lora"].parameters["learning_rate"] == 0.2
    assert {arm: (spec.tuned, spec.settings_tried) for arm, spec in specs.items()} == {
        "lora": (True, 3), "stable_lora@shrink=0.1": (False, 1), "stable_lora@shrink=0.2": (False, 1),
        "frozen": (False, 1),
    }  # fmt: skip
    before = {t.fingerprint: t.spec.arm for t in untuned.trials}
    changed = {t.spec.arm for t in plan.trials if t.fingerprint not in before}
    assert changed == {"lora"}, "the fingerprint knows the setting, and nothing else of the tuning"
    written = build_plan(three(methods={"lora": {"learning_rate": 0.2}}), methods(), inputs(), 8, "s.yaml")
    assert {t.fingerprint for t in written.trials} <= {t.fingerprint for t in plan.trials}


def test_the_file_comes_back(tmp_path):
    found = judged(three(), outcome(*[[[0.5, 0.5]] * 2] * 3))
    write_tuning(tmp_path, found)
    assert read_tuning(tmp_path) == found
    assert read_tuning(tmp_path / "elsewhere") is None
    rows = json.loads((tmp_path / "tuning.json").read_text())["tries"]
    assert all(not isinstance(value, dict | list) for row in rows for value in row.values()), "rows of a table"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", ":1"),
        ("{", ":1"),
        ("[]", ""),
        ('{"schema_version": 1}', ":schema_version"),
        ("[" * 100_000, ""),
    ],
    ids=["empty", "cut", "list", "schema", "deep"],
)
def test_a_broken_file_is_refused(tmp_path, text, key):
    (tmp_path / "tuning.json").write_text(text)
    with pytest.raises(InputError) as error:
        read_tuning(tmp_path)
    assert error.value.where == str(tmp_path / "tuning.json") + key
    assert "lorabench tune" in str(error.value.remedy)


# -- in a campaign ----------------------------------------------------------------------------------------------------

FILE = TOY | {
    "probes": ["toy_text"], "methods": {"lora": {}, "frozen": {}},
    "training": {"examples": 64, "batch": 8}, "scoring": {"items": 8, "curve": [32]},
}  # fmt: skip


@pytest.fixture
def load(tmp_path, in_shared_cache):
    """``load(tune=True, seeds=[1])``: the campaign of a small study with these keys; results in tmp_path/out."""

    def make(tune: bool = False, **changes: Any) -> campaign.Campaign:
        return campaigns.load(campaigns.write_study(tmp_path, FILE, **changes), tmp_path / "out", tune=tune)

    return make


def tuned(load, tmp_path: Path, **changes: Any) -> None:
    """Leave a tuning.json that chose the second rate."""
    found = load(tune=True, **changes)
    records = [record(t, [0.9, 0.9] if "=0.0002" in t.spec.arm else [0.1, 0.1]) for t in found.plan.trials]
    write_tuning(tmp_path / "out", tuning.judge("mine", found.plan, found.searches, records))


def test_the_tuning_study_has_a_folder_of_its_own_inside(load, tmp_path):
    found = load(tune=True)
    assert found.folder == tmp_path / "out" / "tuning"
    assert (found.study.name, found.study.seeds, found.study.probes) == ("mine-tuning", (1000, 1001), ())
    assert len(found.plan.trials) == 2 * 5
    assert set(found.task_digests) == {"toy_recall", "toy_digits"}, "probes may have no validation items"


def test_a_lower_is_better_task_has_no_average_accuracy(load, monkeypatch):
    prepare = campaign.tasks.prepare_task

    def lower(name: str):
        found = prepare(name)
        metrics = [{**found.config["metric_list"][0], "higher_is_better": name != "toy_digits"}]
        return dataclasses.replace(found, config={**found.config, "metric_list": metrics})

    monkeypatch.setattr(campaign.tasks, "prepare_task", lower)
    with pytest.raises(InputError, match="'toy_digits' is better the lower its acc") as error:
        load(tune=True)
    assert str(error.value.where).endswith("mine.yaml:streams")
    assert load().plan.trials


def test_a_run_takes_the_choice_and_says_so(load, tmp_path):
    before = load()
    assert before.remarks == ()
    tuned(load, tmp_path)
    found = load()
    assert found.folder == before.folder
    spec = next(t.spec for t in found.plan.trials if t.spec.arm == "lora")
    assert (spec.parameters["learning_rate"], spec.tuned, spec.settings_tried) == (2e-4, True, 5)
    assert "settings of lora are those that" in found.remarks[0]
    assert found.plan.expected == before.plan.expected
    more = load(methods={"lora": {}, "frozen": {}, "rslora": {}})
    assert {t.spec.arm: t.spec.tuned for t in more.plan.trials} == {"lora": True, "frozen": False, "rslora": False}


@pytest.mark.parametrize("change", [
    {"training": {"examples": 32, "batch": 8}}, {"tuning": {"settings": 4}}, {"tuning": {"seeds": [5]}},
    {"streams": {"order": ["toy_digits"]}}, {"adapter": {"rank": 2}},
])  # fmt: skip
def test_a_choice_for_another_version_of_the_study_is_refused(load, tmp_path, change):
    tuned(load, tmp_path)
    with pytest.raises(InputError, match="'lora' was tuned for another version of this study") as error:
        load(**({"scoring": {"items": 8}} | change))
    assert error.value.where == str(tmp_path / "out" / "tuning.json")


@pytest.mark.parametrize("grids", [{}, {"grids": {"lora": {"learning_rate": [1e-4, 2e-4, 5e-4, 1e-3, 2e-3]}}}])
def test_a_setting_that_is_fixed_later_is_not_overridden(load, tmp_path, grids):
    """Whether or not the study has a grid of its own for it, which would still be tried."""
    tuned(load, tmp_path, tuning=grids)
    with pytest.raises(InputError, match="'lora' was tuned for another version of this study"):
        load(tuning=grids, methods={"lora": {"learning_rate": 0.0015}, "frozen": {}})


def test_a_tuning_is_extended_once_where_its_best_is_at_an_end(load, tmp_path):
    first = load(tune=True)
    assert [each.extension for each in first.searches] == [None, None]
    best = lambda rate: [0.9, 0.9] if rate >= 2e-3 else [0.1, 0.1]  # noqa: E731
    for trial in first.plan.trials:
        write_trial(first.folder, record(trial, best(trial.learning_rate)))
    assert campaign.at_ends(first) == {"lora": ("learning_rate=0.002",)}
    second = load(tune=True)
    more = [trial for trial in second.plan.trials if trial.fingerprint not in first.plan.fingerprints]
    assert {trial.spec.arm for trial in more} == {"lora@learning_rate=0.004"}
    assert first.plan.fingerprints < second.plan.fingerprints, "nothing is tried twice"
    assert campaign.at_ends(second) == {}, "it is extended once"
    again = [trial for pack in campaign.read_state(second).todo for trial in pack.trials]
    assert again == more, "nothing is trained twice"
    for trial in more:
        write_trial(second.folder, record(trial, [0.95, 0.95]))
    choice = campaign.choose(second).arms["lora"]
    assert (choice.settings, choice.score, choice.tried, choice.grid) == ({"learning_rate": 0.004}, 0.95, 6, 5)
    assert (choice.place, choice.ends, choice.beyond) == (
        "at an end", ("learning_rate=0.004",), ("learning_rate=0.004",))  # fmt: skip
    rows = read_tuning(tmp_path / "out").tries
    assert [row["setting"] for row in rows if row["beyond"]] == ["learning_rate=0.004"]
    assert load(tune=True).plan.fingerprints == second.plan.fingerprints
    spec = next(t.spec for t in load().plan.trials if t.spec.arm == "lora")
    assert (spec.parameters["learning_rate"], spec.settings_tried) == (0.004, 6)


@pytest.mark.parametrize("change", [{"seeds": [0, 1, 2]}, {"title": "new"}, {"probes": []}, {"keep_adapters": "none"}])
def test_what_tuning_does_not_depend_on_may_change(load, tmp_path, change):
    tuned(load, tmp_path)
    assert "settings of lora" in load(**change).remarks[0]
