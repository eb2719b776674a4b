"""One study with adapters of several shapes and both regimes, from its file to report, exports and mitigation."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import campaigns
import pytest
from campaigns import QUIET, TOY
from safetensors import safe_open

from harness.engine.adapters.files import export_peft, find_adapter
from harness.executors.interface import Watcher
from harness.method.registry import methods
from harness.posthoc import mitigation, variants
from harness.report import leaderboard, write_report
from harness.report.study import gather
from harness.running import campaign
from harness.store.packed import Floats
from harness.store.results import read_base, read_trials
from harness.study import forecast

QV = ["q_proj", "v_proj"]
STUDY = TOY | {
    "probes": ["toy_text"],
    "methods": {
        "frozen": {}, "lora": {}, "lora@rank2": {"adapter": {"rank": 2, "targets": QV}},
        "lora_ema@rank2": {"adapter": {"rank": 2, "targets": QV}}, "lora@reinit": {"between_tasks": "reinit"},
    },
    "training": {"examples": 24, "batch": 8}, "scoring": {"items": 8, "curve": [8]},
}  # fmt: skip


def load(folder: Path, **changes: Any) -> campaign.Campaign:
    folder.mkdir(exist_ok=True)
    return campaigns.load(campaigns.write_study(folder, STUDY, "shapes", **changes), folder / "out")


def run(found: campaign.Campaign) -> dict[str, float]:
    """Units of work done, by job; ``total`` is the forecast of all packs."""
    units: dict[str, float] = {}
    watcher = Watcher(lambda total: units.update(total=total), lambda job, done, what: units.update({job: done}))
    campaigns.run(found, watcher=watcher)
    return units


def records(folder: Path) -> dict[str, dict]:
    """By arm, without what two runs, or two studies with the same arm, may differ in."""
    found = {}
    for record in read_trials(folder / "out").records:
        found[record.spec.arm] = record.model_dump(mode="json", exclude={"costs", "host"})
    return found


@pytest.fixture(scope="module")
def done(shared_cache, tmp_path_factory) -> tuple[campaign.Campaign, dict[str, float], Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(shared_cache))
        folder = tmp_path_factory.mktemp("shapes")
        found = load(folder)
        yield found, run(found), folder


def test_every_arm_trains_what_it_says(done):
    found = records(done[2])
    assert {record["status"] for record in found.values()} == {"ok"}
    assert {arm: record["spec"]["training"]["adapter"] | {"between": record["spec"]["training"]["between_tasks"]}
            for arm, record in found.items() if "@" in arm} == {
        "lora@rank2": {"rank": 2, "alpha": 4.0, "targets": QV, "between": "continue"},
        "lora_ema@rank2": {"rank": 2, "alpha": 4.0, "targets": QV, "between": "continue"},
        "lora@reinit": {**found["lora"]["spec"]["training"]["adapter"], "between": "reinit"},
    }  # fmt: skip
    matrices = {
        arm: set(record["intruders"][-1]["by_type"]["names"].split())
        for arm, record in found.items()
        if arm != "frozen"
    }
    assert matrices["lora@rank2"] == matrices["lora_ema@rank2"] == set(QV)
    assert len(matrices["lora"]) == len(matrices["lora@reinit"]) == 7
    assert found["lora"]["train_loss"][0] == found["lora@reinit"]["train_loss"][0], "alike until the second task"
    assert found["lora"]["train_loss"][1] != found["lora@reinit"]["train_loss"][1]
    assert found["lora"]["train_loss"][0] != found["lora@rank2"]["train_loss"][0]


def test_an_arms_adapter_trains_as_a_studys_bit_for_bit(done, tmp_path):
    everyone = {
        "methods": {"lora@rank2": {}, "lora_ema@rank2": {}}, "adapter": {"rank": 2, "alpha": 4, "targets": QV}
    }  # fmt: skip
    run(load(tmp_path, **everyone))
    ours, theirs = records(done[2]), records(tmp_path)
    assert theirs == {arm: ours[arm] for arm in theirs}


def test_on_one_task_what_says_that_it_is_plain_lora_is(tmp_path):
    alone = [name for name, method in methods().items() if method.on_one_task == "plain LoRA"]
    assert {"lora_ewc", "lora_replay", "o_lora", "single_task"} <= set(alone)
    run(load(tmp_path, streams={"one": ["toy_recall"]}, methods={name: {} for name in ("lora", *alone)}))
    found = records(tmp_path)
    plain = found.pop("lora")
    for name, record in found.items():
        assert record["status"] == "ok"
        losses, wanted = (Floats.parse(each["train_loss"][0]).tolist() for each in (record, plain))
        assert losses == pytest.approx(wanted, rel=1e-5), name
        assert record["tasks"] == plain["tasks"], name
        assert record["intruders"][-1]["delta_norm"] == pytest.approx(plain["intruders"][-1]["delta_norm"], rel=1e-4)


def test_the_forecast_is_the_work_that_is_done(done):
    found, units, _ = done
    base = read_base(found.folder, json.loads((found.folder / "base.json").read_text())["key"])
    state = campaign.read_state(found)
    assert state.complete
    for pack in found.plan.packs:
        wanted = forecast.pack_units(found.study, base, pack)
        assert units[pack.name] == pytest.approx(wanted, rel=0.02), "but for the lengths of the examples drawn"
        heavier = forecast.adapter_weight(pack, 1) > 1.1
        assert heavier == pack.stacks


def test_the_board_says_who_has_which_adapter(done):
    write_report(done[0].folder, read_trials(done[0].folder))
    with (done[0].folder / "leaderboard.csv").open(newline="") as file:
        rows = {row["method"]: [row[key] for key in ("rank", "alpha", "targets", "between_tasks")]
                for row in csv.DictReader(file)}  # fmt: skip
    assert rows["lora@rank2"] == ["2", "4", "q_proj v_proj", "continue"]
    assert rows["lora@reinit"][3] == "reinit"
    assert rows["frozen"] == [""] * 4
    page = (done[0].folder / "report.md").read_text()
    assert "The table of hyper-parameters has the adapter of each arm." in page
    assert "Arms adapt different matrices" in page
    assert "q_proj v_proj" in page
    assert "| adapter.rank | adapter.alpha | adapter.targets | between_tasks |" in page
    board = {row.arm.name: row.tested for row in leaderboard.rows(gather(read_trials(done[0].folder)))}
    assert "intruder_distance" not in board["lora@rank2"], "of other matrices"
    assert "forgetting" in board["lora@rank2"]
    assert "intruder_distance" in board["lora@reinit"]


def test_an_export_is_of_the_arm_s_own_rank_and_targets(done, tmp_path):
    from peft import PeftConfig

    for arm, rank, alpha, targets in (("lora@rank2", 2, 4, QV), ("lora@reinit", 16, 16, None), ("lora", 8, 16, None)):
        fingerprint = records(done[2])[arm]["fingerprint"]
        export_peft(*find_adapter(done[0].folder, fingerprint), tmp_path / arm)
        config = PeftConfig.from_pretrained(tmp_path / arm)
        assert (config.r, config.lora_alpha) == (rank, alpha)
        assert config.target_modules == set(targets or done[0].study.adapter.targets)
        with safe_open(tmp_path / arm / "adapter_model.safetensors", framework="pt") as file:
            assert {name.split(".")[-3] for name in file.keys()} == config.target_modules  # noqa: SIM118


def test_mitigation_takes_adapters_of_every_shape_at_once(done, monkeypatch):
    """Trained rows are the records; intruder numbers are over the matrices that the arm adapts."""
    monkeypatch.setattr(variants.Variants, "chosen", lambda self, stored: {"nowhere": ((), ())})
    found = done[0]
    adapters, left_out = mitigation.read_adapters(
        found.folder, mitigation.find_trials(found.folder, found.plan.fingerprints, None)
    )
    assert not left_out
    rows = mitigation.mitigate(found.study, found.model.path, adapters, "first", [0.5], "cpu", QUIET)
    trained = {row["arm"]: row for row in rows if row["kind"] == "trained"}
    assert set(trained) == {"lora", "lora@rank2", "lora_ema@rank2", "lora@reinit"}
    for arm, row in trained.items():
        record = records(done[2])[arm]
        assert row["intruder_count"] == record["intruders"][-1]["count"]
        assert row["intruder_distance"] == pytest.approx(record["intruders"][-1]["distance"], rel=1e-4)
        assert row["delta_norm"] == pytest.approx(record["intruders"][-1]["delta_norm"], rel=1e-4)
        rescored = next(row for row in rows if (row["arm"], row["kind"]) == (arm, "rescored"))
        for task in record["spec"]["stream"]:
            assert row[f"score_{task}"] == record["tasks"][task]["score"][-1]
            assert rescored[f"score_{task}"] == pytest.approx(row[f"score_{task}"], abs=1 / 8)
