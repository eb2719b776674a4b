"""From a study to packs: by nothing but the study, and nobody's business but its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from harness.errors import InputError
from harness.method.registry import methods
from harness.store.fingerprint import canonical, digest, source_digest
from harness.store.records import Costs, TaskScores, TrialRecord, TrialSpec
from harness.study.arms import PlannedArm, expand_arms
from harness.study.limits import MOST_TASKS, MOST_TRIALS
from harness.study.load import build_study
from harness.study.memory import parameters
from harness.study.plan import Inputs, build_plan
from harness.study.seeds import derive

TASKS = ("a", "b", "c", "probe")
ALL = {"frozen": {}, "lora": {}, "stable_lora": {}, "lora_ema": {}, "self_distill": {}, "combined": {}}


def study(given=None, **changes):
    data = {"name": "s", "model": "m", "seeds": [0, 1], "streams": {"one": ["a", "b"], "two": ["b", "a"]},
            "probes": ["probe"], "methods": ALL if given is None else given}  # fmt: skip
    return build_study(data | changes, where="s.yaml")


def inputs(**changes) -> Inputs:
    values = {"model_digest": "model", "task_digests": {t: f"digest {t}" for t in TASKS},
              "method_digests": {name: f"source of {name}" for name in methods()}}  # fmt: skip
    return Inputs(**(values | changes))


def plan(given=None, size=8, **changes):
    return build_plan(study(given, **changes), methods(), inputs(), size, "s.yaml")


def identity(found) -> list:
    return [
        (pack.name, [(row.init_seed, row.data_seeds, [t.fingerprint for t in row.trials]) for row in pack.rows])
        for pack in found.packs
    ]


def seeds_by_trial(found) -> dict:
    return {
        trial.fingerprint: (row.init_seed, row.data_seeds)
        for pack in found.packs
        for row in pack.rows
        for trial in row.trials
    }


def test_the_same_study_has_the_same_packs():
    assert identity(plan()) == identity(plan())
    assert [t.fingerprint for t in plan().untrained] == [t.fingerprint for t in plan().untrained]
    assert len({pack.name for pack in plan(size=2).packs}) == len(plan(size=2).packs)


def test_every_trial_is_planned_once():
    found = plan()
    assert len(found.trials) == len(ALL) * 2 * 2 == len({t.fingerprint for t in found.trials})
    assert found.expected == dict.fromkeys(ALL, 4)
    assert list(found.expected) == list(ALL), "in the study's order"
    assert Counter(t.spec.method for t in found.untrained) == {"frozen": 4}


def test_adding_a_method_changes_nobody():
    few = plan({"lora": {}, "stable_lora": {}})
    more = plan({"combined": {}, "lora": {}, "self_distill": {"ema_decay": [0.5, 0.9]}, "stable_lora": {}})
    before, after = seeds_by_trial(few), seeds_by_trial(more)
    assert before.items() <= after.items()


def test_more_seeds_orders_or_another_pack_change_nobody():
    before = seeds_by_trial(plan())
    streams = {"zero": ["a"], "one": ["a", "b"], "two": ["b", "a"]}
    assert before.items() <= seeds_by_trial(plan(seeds=[7, 0, 1], streams=streams)).items()
    assert before == seeds_by_trial(plan(size=3))
    assert before == seeds_by_trial(plan(threads=1, device="cpu", title="other", keep_adapters="none"))


def test_arms_are_paired_and_everything_else_is_not():
    by_cell: dict = {}
    for pack in plan().packs:
        for row in pack.rows:
            spec = row.trials[0].spec
            by_cell.setdefault((spec.order, spec.seed), set()).add((row.init_seed, row.data_seeds))
    assert all(len(found) == 1 for found in by_cell.values()), "the same data and the same start in every arm"
    starts = [next(iter(found)) for found in by_cell.values()]
    flat = [seed for init, data in starts for seed in (init, *data)]
    assert len(set(flat)) == len(flat)


@pytest.mark.parametrize("change", [
    {"root_seed": 1}, {"dtype": "float32"}, {"adapter": {"rank": 4}}, {"training": {"examples": 256}},
    {"training": {"between_tasks": "reinit"}},
    {"scoring": {"items": 5}}, {"scoring": {"split": "validation"}}, {"probes": []}, {"model": "n"},
])  # fmt: skip
def test_what_changes_a_trial_changes_its_fingerprint(change):
    before = {t.fingerprint for t in plan().trials}
    assert before.isdisjoint(t.fingerprint for t in plan(**change).trials)


@pytest.mark.parametrize(("change", "same"), [
    ({"model_digest": "other"}, set()),
    ({"task_digests": {**inputs().task_digests, "probe": "other"}}, set()),
    ({"method_digests": {**inputs().method_digests, "lora": "other"}}, set(ALL) - {"lora"}),
])  # fmt: skip
def test_digests_of_what_it_is_made_of_are_part_of_it(change, same):
    before = {t.fingerprint: t.spec.method for t in plan().trials}
    after = build_plan(study(), methods(), inputs(**change), 8, "s.yaml")
    assert {before[t.fingerprint] for t in after.trials if t.fingerprint in before} == same


def test_a_default_written_out_is_the_same_trial():
    written = {"adapter": {"rank": 8, "alpha": 16}, "training": {"clip": 1, "weight_decay": 0}}
    explicit = plan(
        {"lora": {"learning_rate": 0.0005}, "stable_lora": {"shrink": 0.001}, "lora_ema": {"ema_window": 0.15}},
        **written,
    )
    assert seeds_by_trial(explicit) == seeds_by_trial(plan({"lora": {}, "stable_lora": {}, "lora_ema": {}}))


def test_lora_and_its_average_train_once():
    found = plan(
        {"lora": {}, "lora_ema": {"ema_decay": [0.5, 0.9]}, "stable_lora": {}}, seeds=[0], streams={"o": ["a"]}
    )
    ((first, second),) = [pack.rows for pack in found.packs]
    assert [t.spec.arm for t in first.trials] == ["lora", "lora_ema@ema_decay=0.5", "lora_ema@ema_decay=0.9"]
    assert [t.spec.arm for t in second.trials] == ["stable_lora"]


def test_other_rates_seeds_and_orders_do_not_share_a_row():
    found = plan({"lora": {}, "lora_ema": {"learning_rate": 0.1}})
    assert all(len(row.trials) == 1 for pack in found.packs for row in pack.rows)
    shared = plan({"lora": {"learning_rate": 0.1}, "lora_ema": {"learning_rate": 0.1}})
    for pack in shared.packs:
        for row in pack.rows:
            assert len(row.trials) == 2
            assert len({(t.spec.order, t.spec.seed, t.learning_rate) for t in row.trials}) == 1


def test_rows_of_a_pack_agree():
    streams = {"short": ["a"], "long": ["a", "b"]}
    distill = {"self_distill": {"skip_tokens": [0, 1], "distill_weight": [0.5, 1.0]}, "lora": {}, "stable_lora": {}}
    found = plan(distill, streams=streams)
    kinds = []
    for pack in found.packs:
        keys = {(row.trials[0].recipe.pack_key, len(row.stream)) for row in pack.rows}
        assert len(keys) == 1
        kinds += keys
    assert len(kinds) == len(set(kinds)) == 2 * (2 + 1), "cross-entropy, and distillation with and without the skip"


@pytest.mark.parametrize(("between", "packs"), [("continue", [4]), ("reinit", [1, 3])])
def test_teachers_share_a_pack_but_not_over_a_changed_base(between, packs):
    teachers = {"self_distill": {"teacher": ["base", "snapshot", "ema", "live"]}}
    found = plan(teachers, seeds=[0], streams={"o": ["a", "b"]}, training={"between_tasks": between})
    assert [len(pack.rows) for pack in found.packs] == packs


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 12))
def test_packs_are_small_enough_and_even(rows, size):
    found = plan({"lora": {}}, size, seeds=list(range(rows)), streams={"o": ["a"]})
    sizes = [len(pack.rows) for pack in found.packs]
    assert sum(sizes) == rows
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-rows // size)


def test_a_pack_holds_rows_that_will_be_compared():
    found = plan({"lora": {}, "stable_lora": {}}, 2)
    for pack in found.packs:
        assert len({(row.trials[0].spec.order, row.trials[0].spec.seed) for row in pack.rows}) == 1


@pytest.mark.parametrize("later", [{"lora_ema": {}}, {"lora@more": {"learning_rate": 0.004}}, {"combined": {}}])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_arms_that_come_later_leave_the_packs_of_the_others(later, size):
    """Though they would train as others do, or beside them."""
    given = {"frozen": {}, "lora": {}, "self_distill": {}}
    arms = study(given | later)
    names = {arm.name for arm in expand_arms(arms, methods(), "s.yaml")}
    names -= {arm.name for arm in expand_arms(study(given), methods(), "s.yaml")}
    found = build_plan(arms, methods(), inputs(), size, "s.yaml", later=names)
    before, packs = identity(plan(given, size)), identity(found)
    assert [each for each in packs if each in before] == before
    added = {trial.spec.arm for pack in found.packs if pack.name not in dict(before) for trial in pack.trials}
    assert added == names
    assert found.fingerprints == plan(given | later, size).fingerprints


def test_a_grid_becomes_rows():
    given = {"lora": {"learning_rate": [0.1, 0.01]}, "lora@hot": {"learning_rate": 1.0},
             "stable_lora": {"shrink": [0.1, 0.2], "learning_rate": [0.1, 0.2], },
             "lora_ema@x": {"ema_decay": [0.5]}}  # fmt: skip
    arms = expand_arms(study(given), methods(), "s.yaml")
    assert [arm.name for arm in arms] == [
        "lora@learning_rate=0.1", "lora@learning_rate=0.01", "lora@hot",
        "stable_lora@shrink=0.1,learning_rate=0.1", "stable_lora@shrink=0.1,learning_rate=0.2",
        "stable_lora@shrink=0.2,learning_rate=0.1", "stable_lora@shrink=0.2,learning_rate=0.2",
        "lora_ema@x,ema_decay=0.5",
    ]  # fmt: skip
    assert (arms[5].settings.shrink, arms[5].settings.learning_rate) == (0.2, 0.1)
    assert arms[5].recipe.updates[0].rate == 0.2


def test_a_resolved_default_stands_in_the_record():
    (arm,) = expand_arms(study({"lora_ema": {}}), methods(), "s.yaml")
    assert arm.settings.ema_decay == 0.9, "0.15 of 64 steps are 10"
    trial = plan({"lora_ema": {}}).trials[0]
    assert trial.spec.parameters == {
        "learning_rate": 5e-4, "ema_decay": 0.9, "ema_window": 0.15, "ema_warmup": False
    }  # fmt: skip


@pytest.mark.parametrize("window", [2, [0.1, 2]])
def test_a_window_longer_than_a_stream_is_refused(window):
    streams = {"long": ["a", "b"], "short": ["a"]}
    with pytest.raises(InputError, match="an average over 2 tasks is longer than a stream of 1") as error:
        expand_arms(study({"sdft": {"ema_window": window}}, streams=streams), methods(), "s.yaml")
    assert error.value.where == "s.yaml:methods.sdft.ema_window"
    assert "0.1 is a tenth of a task, 1 the whole stream" in error.value.remedy
    whole = expand_arms(study({"sdft": {"ema_window": 2}}), methods(), "s.yaml")[0]
    assert whole.settings.ema_decay == 1 - 1 / 128


def test_a_window_and_a_decay_together_are_refused():
    with pytest.raises(InputError, match="ema_decay is one, too") as error:
        expand_arms(study({"combined": {"ema_decay": 0.9, "ema_window": 0.2}}), methods(), "s.yaml")
    assert error.value.where == "s.yaml:methods.combined.ema_window"
    assert error.value.remedy == "leave one of them out"


def test_how_many_were_tried_does_not_change_what_a_trial_is():
    one = {t.fingerprint for t in plan({"lora@learning_rate=0.1": {"learning_rate": 0.1}}).trials}
    two = {t.fingerprint for t in plan({"lora": {"learning_rate": [0.1, 0.2]}}).trials}
    assert one < two


@pytest.mark.parametrize(("given", "where", "text"), [
    ({"lorra": {}}, "s.yaml:methods.lorra", "did you mean 'lora'"),
    ({"lora": {"learning_rte": 1}}, "s.yaml:methods.lora.learning_rte", "did you mean 'learning_rate'"),
    ({"lora": {"learning_rate": [0.1, 0.1]}}, "s.yaml:methods.lora.learning_rate", "stands here twice"),
])  # fmt: skip
def test_errors_name_file_and_key(given, where, text):
    with pytest.raises(InputError, match=text) as error:
        expand_arms(study(given), methods(), "s.yaml")
    assert error.value.where == where


def test_an_empty_grid_is_an_error():
    with pytest.raises(InputError):
        expand_arms(study({"lora": {"learning_rate": []}, "frozen": {}}), methods(), "s.yaml")


def test_plan_and_record_have_the_same_fingerprint():
    tuned = build_plan(study(), methods(), inputs(tuned={"lora": 5}), 8, "s.yaml")
    assert [t.spec.tuned for t in tuned.trials] == [t.spec.method == "lora" for t in tuned.trials]
    for trial in tuned.trials:
        scores = TaskScores(
            metric="acc", higher_is_better=True, items=2, chance=0.5, score=(0.5, 0.5, 1.0), stderr=(0.5, 0.5, 0.0)
        )
        record = TrialRecord(
            fingerprint=trial.fingerprint, study="s", status="ok", spec=trial.spec, facts=trial.facts, stack={},
            costs=Costs(), tasks=dict.fromkeys(trial.spec.stream, scores),
        )  # fmt: skip
        text = json.dumps(record.model_dump(mode="json"), allow_nan=False)
        again = TrialRecord.model_validate(json.loads(text))
        assert again == record
        assert again.spec.fingerprint == trial.fingerprint
        assert TrialSpec.model_validate_json(trial.spec.model_dump_json()).fingerprint == trial.fingerprint


# -- large studies ----------------------------------------------------------------------------------------------------


def counted(monkeypatch, kind: type, name: str) -> list:
    """Every reading of a property of this kind."""
    calls: list = []
    read = getattr(kind, name).fget
    monkeypatch.setattr(kind, name, property(lambda self: (calls.append(1), read(self))[1]))
    return calls


def test_arms_and_trials_are_looked_at_a_fixed_number_of_times(monkeypatch):
    """Each against each other would be the square: 20,000 arms took hours."""
    many = 200
    names, arms = counted(monkeypatch, PlannedArm, "name"), counted(monkeypatch, TrialSpec, "arm")
    given = {"lora": {"learning_rate": [(n + 1) / 1e6 for n in range(many)]}}
    found = plan(given, seeds=[0], streams={"o": ["a"]})
    assert len(found.expected) == many
    assert len(names) <= 4 * many
    assert len(arms) <= 4 * many


@pytest.mark.slow  # ten seconds
@pytest.mark.parametrize("changes", [
    {"seeds": list(range(MOST_TRIALS)), "streams": {"o": ["a"]}},
    {"given": {"lora": {"learning_rate": [(n + 1) / 1e6 for n in range(MOST_TRIALS)]}}, "seeds": [0],
     "streams": {"o": ["a"]}},
    {"given": {"lora": {}}, "seeds": [0], "streams": {f"o{n}": ["a", "b"] for n in range(MOST_TRIALS)}},
], ids=["seeds", "grid", "streams"])  # fmt: skip
def test_the_largest_study_is_planned(changes):
    found = plan(**{"given": {"lora": {}}, **changes})
    assert sum(found.expected.values()) == len(found.trials) == MOST_TRIALS


@pytest.mark.parametrize(("changes", "key"), [
    ({"seeds": list(range(MOST_TRIALS + 1)), "streams": {"o": ["a"]}}, "seeds"),
    ({"streams": {f"o{n}": ["a"] for n in range(MOST_TRIALS)}}, "streams"),
    ({"given": {"lora": {"learning_rate": [1.0] * 10**6}}}, "methods.lora.learning_rate"),
    ({"given": {"stable_lora": dict.fromkeys(("learning_rate", "shrink"), [1.0] * 10**5)}},
     "methods.stable_lora.learning_rate"),
    ({"given": {f"lora@{n}": {} for n in range(MOST_TRIALS)}}, "methods"),
])  # fmt: skip
def test_a_larger_study_is_refused_before_anything_is_expanded(monkeypatch, changes, key):
    monkeypatch.setattr("harness.study.arms.grid_points", lambda *_: pytest.fail("a grid was expanded"))
    with pytest.raises(InputError, match="trials; a study has at most 20,000") as error:
        plan(**{"given": {"lora": {}}, **changes})
    assert error.value.where == f"s.yaml:{key}"


def test_what_is_made_by_model_copy_is_refused_as_well():
    large = study().model_copy(update={"seeds": tuple(range(MOST_TRIALS))})
    with pytest.raises(InputError, match="at most 20,000"):
        expand_arms(large, methods(), "s.yaml")


@pytest.mark.parametrize("key", ["streams.o", "probes"])
def test_too_many_tasks_are_refused(key):
    names = [f"t{n}" for n in range(MOST_TASKS + 1)]
    with pytest.raises(InputError, match="at most 100 items") as error:
        study(**({"probes": names} if key == "probes" else {"streams": {"o": names}}))
    assert error.value.where == f"s.yaml:{key}"


@pytest.mark.parametrize("value", [[[0.1]], [{"a": 1}], [0.1, [0.2]]])
def test_a_grid_is_a_list_of_plain_values(value):
    with pytest.raises(InputError, match="list of plain values") as error:
        expand_arms(study({"lora": {"learning_rate": value}}), methods(), "s.yaml")
    assert error.value.where == "s.yaml:methods.lora.learning_rate"


@pytest.mark.parametrize("raised", [KeyError("x"), RecursionError("deep"), ZeroDivisionError("0")])
def test_a_method_that_makes_nothing_of_its_settings_is_named(raised):
    class Settings(BaseModel):
        learning_rate: float = 0.1

        def resolved(self, steps):
            return self

        def check_stream(self, tasks):
            pass

    class Method:
        name, settings, alone = "odd", Settings, ""

        def compose(self, settings):
            raise raised

    with pytest.raises(InputError, match=type(raised).__name__) as error:
        expand_arms(study({"odd": {}}), {"odd": Method()}, "s.yaml")
    assert error.value.where == "s.yaml:methods.odd"
    assert error.value.remedy


@pytest.mark.parametrize("content", [
    b"", b"\0" * 7, (10**18).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{]",
    (2).to_bytes(8, "little") + b"[]", (2).to_bytes(8, "little") + b"\xff\xff",
    (12).to_bytes(8, "little") + b'{"a": "odd"}', (21).to_bytes(8, "little") + b'{"a": {"shape": "1"}}',
])  # fmt: skip
def test_a_file_that_is_none_of_safetensors_is_named(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        parameters(tmp_path)
    assert error.value.where.startswith(str(path))
    assert error.value.remedy


# -- digests and seeds ------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_a_digest_survives_json(value):
    assert digest(json.loads(json.dumps(value))) == digest(value)


@given(st.dictionaries(st.text(), st.integers(), max_size=6))
def test_a_digest_ignores_the_order_of_keys(value):
    assert digest(dict(reversed(value.items()))) == digest(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_a_digest_refuses_what_is_not_data(value):
    with pytest.raises((ValueError, TypeError)):
        canonical(value)


def test_a_source_digest_is_of_names_and_contents(tmp_path):
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("1")
    two.write_text("2")
    first = source_digest([one, two])
    assert source_digest([two, one, one]) == first
    two.write_text("3")
    assert source_digest([one, two]) != first


def test_a_source_digest_knows_no_folders(tmp_path):
    """Files of one name in several folders came in the order of a set, another in every process."""
    found = []
    for contents in ("12", "21"):
        files = [tmp_path / contents / folder / "one.py" for folder in "ab"]
        for file, content in zip(files, contents, strict=True):
            file.parent.mkdir(parents=True)
            file.write_text(content)
        found.append(source_digest(files))
    assert found[0] == found[1]


parts = st.lists(
    st.integers() | st.text(st.characters(codec="utf-8", exclude_characters="\x1f")), min_size=1, max_size=5
)


@given(parts)
def test_a_seed_is_a_function_of_its_parts(values):
    assert derive(*values) == derive(*values)
    assert 0 <= derive(*values) < 2**63


@given(parts, parts)
def test_other_parts_are_other_seeds(one, two):
    if [str(part) for part in one] != [str(part) for part in two]:
        assert derive(*one) != derive(*two)


def test_a_seed_is_the_same_in_every_process():
    command = "from harness.study.seeds import derive; print(derive(0, 'order', 1, 'init'))"
    for hash_seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", command],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(found.stdout) == derive(0, "order", 1, "init") == 2660000163312568587


def test_a_record_carries_what_kind_of_arm_it_is():
    names = ("lora", "lora_ema", "frozen", "multitask", "single_task", "full_finetune", "o_lora")
    plan = build_plan(study({name: {} for name in names}), methods(), inputs(), 8, "s.yaml")
    facts = {trial.spec.method: trial.facts for trial in plan.trials}
    assert {name for name, fact in facts.items() if not fact.trains} == {"frozen"}
    assert {name for name, fact in facts.items() if not fact.sequential} == {"multitask", "single_task"}
    assert {name for name, fact in facts.items() if not fact.has_rank} == {"frozen", "full_finetune"}
    assert {name for name, fact in facts.items() if not fact.control} == {"lora", "lora_ema", "o_lora"}
    assert {name: fact.between for name, fact in facts.items()} == {
        "frozen": None, "lora": "continue", "lora_ema": "continue", "multitask": "continue", "single_task": "fresh",
        "full_finetune": "continue", "o_lora": "reinit",
    }  # fmt: skip
    assert facts["lora_ema"].scored == "average"
    assert facts["frozen"].scored == "base"


#: The methods there were when records had no facts.
FIRST_WAVE = (
    "combined", "combined_on_policy", "dora", "eva", "frozen", "full_finetune", "lora", "lora_ema", "lora_ema_product",
    "lora_ewc", "lora_plus", "lora_replay", "lora_small_a", "multitask", "o_lora", "pissa", "rslora", "sdft",
    "self_distill", "single_task", "stable_lora",
)  # fmt: skip


@pytest.mark.parametrize("name", FIRST_WAVE)
def test_migrated_facts_of_every_method_are_those_of_its_recipe(name):
    """Records without facts knew arms by the names of the project's methods."""
    from harness.store.migrations import migrate

    plan = build_plan(study({name: {}}), methods(), inputs(), 8, "s.yaml")
    trial = plan.trials[0]
    old = {"schema_version": 3, "spec": trial.spec.model_dump(mode="json")}
    assert migrate(old)["facts"] == trial.facts.model_dump(mode="json")
