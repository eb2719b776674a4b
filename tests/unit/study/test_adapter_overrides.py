"""Arms with an adapter or a regime of their own: the same trials as in a study that says so for all of its arms."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.errors import InputError
from harness.method.registry import methods
from harness.store.fingerprint import digest
from harness.store.tuning import Tuning
from harness.study import forecast, memory, tuning
from harness.study.arms import expand_arms
from harness.study.config import AdapterSettings, Study
from harness.study.load import build_study
from harness.study.overrides import differences
from harness.study.plan import Inputs, Plan, build_plan
from harness.study.search import lay_out, tuning_study

TASKS = ("a", "b", "probe")
QV = ("q_proj", "v_proj")


def study(given: dict, **changes: Any) -> Study:
    data = {"name": "s", "model": "m", "seeds": [0, 1], "streams": {"one": ["a", "b"], "two": ["b", "a"]},
            "probes": ["probe"], "methods": given}  # fmt: skip
    return build_study(data | changes, where="s.yaml")


def plan(given: dict, size: int = 8, **changes: Any) -> Plan:
    inputs = Inputs("model", {t: f"digest {t}" for t in TASKS}, {name: f"source of {name}" for name in methods()})
    return build_plan(study(given, **changes), methods(), inputs, size, "s.yaml")


def fingerprints(found: Plan, arm: str | None = None) -> list[str]:
    return sorted(trial.fingerprint for trial in found.trials if arm in (None, trial.spec.arm))


# -- identity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "trials", "packs"), [
    ({}, "cdf5b65c02987459", "cca1692cd2e138d6"),
    ({"adapter": {"alpha": 32, "targets": list(QV)}, "training": {"between_tasks": "reinit"}},
     "d1a8270aa3c3a8c8", "4379f14e53cf14fe"),
])  # fmt: skip
def test_without_overrides_fingerprints_and_packs_stay(changes, trials, packs):
    """Digests from before arms could have an adapter of their own.  They change with every new setting of training,
    scoring or these methods, and then finished results run again; nothing else may change them."""
    arms = {"frozen": {}, "lora": {}, "stable_lora": {"shrink": [0.001, 0.01]},
            "lora_ema_product@rank8": {"keep_rank": 8}, "full_finetune": {}}  # fmt: skip
    found = plan(arms, size=3, **changes)
    assert digest(fingerprints(found))[:16] == trials
    assert digest([pack.name for pack in found.packs])[:16] == packs


@pytest.mark.parametrize(("own", "everyone"), [
    ({"adapter": {"rank": 2}}, {"adapter": {"rank": 2, "alpha": 4}}),
    ({"adapter": {"rank": 2, "alpha": 16}}, {"adapter": {"rank": 2}}),
    ({"adapter": {"alpha": 32}}, {"adapter": {"alpha": 32}}),
    ({"adapter": {"targets": ["v_proj", "q_proj", "v_proj"]}}, {"adapter": {"targets": list(QV)}}),
    ({"between_tasks": "reinit"}, {"training": {"between_tasks": "reinit"}}),
    ({"examples": 256}, {"training": {"examples": 256}}),
    ({"adapter": {"rank": 8}, "between_tasks": "continue", "examples": 512}, {}),
])  # fmt: skip
def test_an_arm_s_own_setting_is_that_of_a_study(own, everyone):
    """Same identity, same packs, hence the same bits: there is no other way of training."""
    ours, theirs = plan({"lora": {}, "lora@own": own}), plan({"lora@own": {}}, **everyone)
    assert fingerprints(ours, "lora@own") == fingerprints(theirs)
    assert fingerprints(ours, "lora") == fingerprints(plan({"lora": {}}))
    if everyone:
        assert {pack.name for pack in theirs.packs} < {pack.name for pack in ours.packs}
    arms = [expand_arms(of, methods(), "s") for of in (study({"lora": own}), study({"lora": {}}, **everyone))]
    assert arms[0][0].recipe == arms[1][0].recipe


def test_a_rank_keeps_the_studys_scaling_unless_it_has_an_alpha():
    given = {"lora@two": {"adapter": {"rank": 2}}, "lora@both": {"adapter": {"rank": 2, "alpha": 3}}}
    two, both = expand_arms(study(given, adapter={"rank": 16, "alpha": 8}), methods(), "s.yaml")
    assert (two.training.adapter.rank, two.training.adapter.alpha) == (2, 1.0)
    assert (both.training.adapter.rank, both.training.adapter.alpha) == (2, 3.0)


def test_a_list_of_regimes_is_a_grid():
    arms = expand_arms(study({"lora": {"between_tasks": ["continue", "reinit"]}}), methods(), "s.yaml")
    assert [arm.name for arm in arms] == ["lora@between_tasks=continue", "lora@between_tasks=reinit"]
    assert [arm.recipe.between for arm in arms] == ["continue", "reinit"]
    assert not any("between_tasks" in arm.settings.model_dump() for arm in arms)


def test_what_an_arm_has_of_its_own_is_shown():
    of = study({"lora@x": {"adapter": {"rank": 2}, "between_tasks": "reinit"}})
    (spec, *_) = [trial.spec for trial in plan(of.methods).trials]
    assert differences(of, spec.training) == {"adapter.rank": 2, "adapter.alpha": 4.0, "between_tasks": "reinit"}
    assert spec.parameters == {"learning_rate": 5e-4}


# -- packs ------------------------------------------------------------------------------------------------------------

ARMS = {
    "lora": {}, "stable_lora": {}, "lora@rank2": {"adapter": {"rank": 2}}, "lora@alpha": {"adapter": {"alpha": 8}},
    "lora_ema@rank2": {"adapter": {"rank": 2}}, "lora@qv": {"adapter": {"targets": list(QV)}},
    "lora@reinit": {"between_tasks": "reinit"},
}  # fmt: skip


def test_a_pack_has_adapters_of_one_shape_and_scaling():
    found = plan(ARMS)
    together = {frozenset(trial.spec.arm for trial in pack.trials) for pack in found.packs}
    assert together == {
        frozenset({"lora", "stable_lora"}), frozenset({"lora@rank2", "lora_ema@rank2"}), frozenset({"lora@alpha"}),
        frozenset({"lora@qv"}), frozenset({"lora@reinit"}),
    }  # fmt: skip
    for pack in found.packs:
        assert all(trial.adapter == pack.adapter for trial in pack.trials)
        assert pack.stacks == ("lora@reinit" in {trial.spec.arm for trial in pack.trials})
    assert set(found.expected) == set(ARMS)


def test_arms_that_train_alike_train_once_whatever_their_shape():
    found = plan({"lora@rank2": ARMS["lora@rank2"], "lora_ema@rank2": ARMS["lora_ema@rank2"]})
    assert all(len(row.trials) == 2 for pack in found.packs for row in pack.rows)


def a_model(folder, shapes: dict[str, list[int]]):
    tensors = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    header = json.dumps(tensors).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


def test_an_adapter_s_numbers_are_those_of_its_rank_and_targets(tmp_path):
    shapes = {"model.layers.0.q_proj.weight": [100, 50], "model.layers.0.q_proj.bias": [100],
              "model.layers.0.up_proj.weight": [200, 50], "model.norm.weight": [50]}  # fmt: skip
    shares = memory.shares_of(a_model(tmp_path, shapes))
    whole = 5000 + 100 + 10000 + 50
    assert shares(AdapterSettings()).factors == pytest.approx(8 * (150 + 250) / whole)
    assert shares(AdapterSettings()).matrices == pytest.approx((5000 + 10000) / whole), "neither norms nor biases"
    assert shares(AdapterSettings(rank=2, targets=QV)).factors == pytest.approx(2 * 150 / whole)
    assert shares(AdapterSettings(rank=2, targets=QV)).matrices == pytest.approx(5000 / whole)


def test_what_there_is_to_decompose_is_counted_by_hand(tmp_path):
    shapes = {
        f"model.layers.{i}.{name}.weight": shape
        for i in range(2)
        for name, shape in {"attn.q_proj": [60, 40], "attn.k_proj": [20, 40], "mlp.down_proj": [40, 90]}.items()
    }
    whole = 2 * (60 * 40 + 20 * 40 + 40 * 90) + 1000
    found = memory.shares_of(a_model(tmp_path, shapes | {"model.embed.weight": [100, 10]}))(AdapterSettings())
    assert found.times(2).decomposed == found.decomposed == memory.Decomposed(
        widest=90, layers=2, moments=2 * (40**2 + 40**2 + 90**2),
        inputs=2 * (40**3 + 90**3) / whole, matrices=2 * (60 * 40**2 + 20**2 * 40 + 40**2 * 90) / whole,
    )  # fmt: skip


def test_large_adapters_have_smaller_packs():
    inputs = Inputs("model", {t: t for t in TASKS}, {name: name for name in methods()})
    given = {
        "lora": {}, "lora@rank64": {"adapter": {"rank": 64}}, "lora@qv64": {"adapter": {"rank": 64, "targets": QV}},
        "lora@reinit64": {"adapter": {"rank": 64}, "between_tasks": "reinit"},
    }  # fmt: skip
    asked = []

    def rows(copies: float) -> int:
        asked.append(copies)
        return 4 if copies < 1 else 2 if copies < 2 else 1

    def shares(adapter: AdapterSettings) -> memory.Shares:
        return memory.Shares(adapter.rank * len(adapter.targets) / 3000)

    found = build_plan(study(given), methods(), inputs, 4, "s", rows, shares)
    sizes = {trial.spec.arm: len(pack.rows) for pack in found.packs for trial in pack.trials}
    assert sizes == {"lora": 4, "lora@rank64": 2, "lora@qv64": 4, "lora@reinit64": 2}
    beyond = (64 - 8) * 7 / 3000
    assert asked[0] == 0, "rank 8 is in the table"
    assert asked[1] == pytest.approx(memory.FACTOR_COPIES * beyond)
    assert asked[3] == pytest.approx(memory.FACTOR_COPIES * beyond + memory.FROZEN_COPIES * 64 * 7 / 3000)


def test_memory_counts_what_a_method_makes_of_its_adapter():
    inputs = Inputs("model", {t: t for t in TASKS}, {name: name for name in methods()})
    asked, tenth = {}, memory.Shares(0.1, 0.8)
    averaged = {"ema_decay": [0.9, 0.99, 0.999]}
    for arm, own in {"lora": {}, "eva": {}, "full_finetune": {}, "pissa": {}, "lora_ema": averaged,
                     "pissa@reinit": {"between_tasks": "reinit"}}.items():  # fmt: skip
        build_plan(study({arm: own}, adapter={"rank": 16}), methods(), inputs, 4, "s",
                   lambda copies, arm=arm: bool(asked.setdefault(arm, copies)) or 1, lambda _: tenth)  # fmt: skip
    assert asked["lora"] == pytest.approx(0.1 * 8 / 16 * memory.FACTOR_COPIES)
    assert asked["eva"] == pytest.approx(0.2 * 24 / 32 * memory.FACTOR_COPIES), "twice the rank by default"
    dense = expand_arms(study({"full_finetune": {}}), methods(), "s")[0].recipe.adapter
    assert dense is not None
    assert asked["full_finetune"] == pytest.approx(0.8 * dense.dense_copies), "of the matrices that it adapts"
    assert asked["pissa"] == pytest.approx(asked["lora"] + 0.1 * memory.FROZEN_COPIES), "its start lies below it"
    starts = asked["lora"] + 0.1 * 3 * memory.FROZEN_COPIES
    assert asked["pissa@reinit"] == pytest.approx(starts), "two tasks: a start each, and the adapter of the first"
    assert asked["lora_ema"] == pytest.approx(asked["lora"] + 0.1 * 2 * memory.AVERAGE_COPIES), "one is in the rest"


def test_a_forecast_counts_the_arm_s_own_rank_and_targets():
    inputs = Inputs("model", {t: t for t in TASKS}, {name: name for name in methods()})

    def pack(**own: Any):
        shares = {8: memory.Shares(0.02), 64: memory.Shares(0.16)}
        found = build_plan(
            study({"lora@x": own}), methods(), inputs, 8, "s", None, lambda adapter: shares[adapter.rank]
        )
        return found.packs[0]

    assert [forecast.adapter_weight(pack(), stage) for stage in (0, 1)] == [1, 1]
    assert forecast.adapter_weight(pack(adapter={"rank": 64}), 1) == pytest.approx(1.14)
    assert forecast.adapter_weight(pack(between_tasks="reinit"), 1) == pytest.approx(1.02)
    assert forecast.intruder_units(pack().adapter) == forecast.INTRUDER_UNITS
    part = forecast.intruder_units(pack(adapter={"targets": QV}).adapter)
    assert part == pytest.approx(forecast.INTRUDER_UNITS * 2 / 7)


# -- tuning -----------------------------------------------------------------------------------------------------------


def test_tuning_keeps_what_an_arm_has_of_its_own():
    of = study({"lora": {}, "lora@rank2": {"adapter": {"rank": 2}, "between_tasks": "reinit"}})
    searches = lay_out(of, methods(), "s.yaml")
    assert [len(search.tries) for search in searches] == [5, 5]
    tried = expand_arms(tuning_study(of, searches, "s.yaml"), methods(), "s.yaml")
    assert {(arm.training.adapter.rank, arm.training.between_tasks) for arm in tried if "rank2" in arm.name} == {
        (2, "reinit")
    }
    assert {arm.training.adapter.rank for arm in tried if "rank2" not in arm.name} == {8}
    untuned = Tuning(study="s", seeds=(0,), settings=5, arms={}, tries=())
    again = expand_arms(tuning.with_chosen(of, searches, untuned), methods(), "s.yaml")
    assert [(arm.name, arm.training) for arm in again] == [
        (arm.name, arm.training) for arm in expand_arms(of, methods(), "s.yaml")
    ]


def test_an_adapter_is_not_tuned():
    of = study({"lora": {}}, tuning={"grids": {"lora": {"adapter": [{"rank": 2}]}}})
    with pytest.raises(InputError, match="a list of adapters is not a grid") as error:
        lay_out(of, methods(), "s.yaml")
    assert error.value.where == "s.yaml:tuning.grids.lora.adapter"


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "key", "text"), [
    ({"lora": {"adapter": {"rank": 0}}}, "lora.adapter.rank", "whole number from 1 to"),
    ({"lora": {"adapter": {"rank": 2.5}}}, "lora.adapter.rank", "whole number from 1 to"),
    ({"lora": {"adapter": {"alpha": 0}}}, "lora.adapter.alpha", "greater than 0"),
    ({"lora": {"adapter": {"rnk": 2}}}, "lora.adapter.rnk", "did you mean 'rank'"),
    ({"lora": {"adapter": {"targets": []}}}, "lora.adapter.targets", "at least 1"),
    ({"lora": {"adapter": {"targets": "q_proj"}}}, "lora.adapter.targets", "tuple"),
    ({"lora": {"adapter": {"targets": ["q_prj"]}}}, "lora.adapter.targets", "did you mean 'q_proj'"),
    ({"lora": {"adapter": {"targets": ["lm_head"]}}}, "lora.adapter.targets", "neither among the study's own targets"),
    ({"lora": {"adapter": 8}}, "lora.adapter", "is a mapping with some of rank, alpha, targets"),
    ({"lora": {"adapter": {}}}, "lora.adapter", "leave the key out"),
    ({"lora": {"adapter": None}}, "lora.adapter", "leave the key out"),
    ({"lora": {"adapter": {"rank": [2, 4]}}}, "lora.adapter.rank", "lora@rank2"),
    ({"lora": {"adapter": [{"rank": 2}]}}, "lora.adapter", "lora@rank2"),
    ({"lora": {"adaptor": {"rank": 2}}}, "lora.adaptor", "did you mean 'adapter'"),
    ({"lora": {"between": "reinit"}}, "lora.between", "did you mean 'between_tasks'"),
    ({"lora": {"between_tasks": "fresh"}}, "lora.between_tasks", "'continue' or 'reinit'"),
    ({"frozen": {"adapter": {"rank": 2}}}, "frozen.adapter", "trains nothing"),
    ({"frozen": {"between_tasks": "reinit"}}, "frozen.between_tasks", "trains nothing"),
    ({"full_finetune": {"adapter": {"rank": 2}}}, "full_finetune.adapter.rank", "have no rank"),
    ({"single_task": {"between_tasks": "reinit"}}, "single_task.between_tasks", "decides by itself .* .fresh."),
])  # fmt: skip
def test_bad_input_is_named_with_its_key(given, key, text):
    with pytest.raises(InputError, match=text) as error:
        expand_arms(study(given), methods(), "s.yaml")
    assert error.value.where == f"s.yaml:methods.{key}"
    assert error.value.remedy


def test_dense_arms_may_have_targets_of_their_own():
    (arm,) = expand_arms(study({"full_finetune@qv": {"adapter": {"targets": list(QV)}}}), methods(), "s.yaml")
    assert arm.training.adapter.targets == QV
