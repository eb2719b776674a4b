"""``lorabench tune`` and the run after it, on a tiny model: what is chosen is used, and nothing is tried twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from folders import state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STUDY = """
model: tiny-random-llama
dtype: float32
threads: 2
device: cpu
seeds: [0, 1]
streams:
  order: [toy_recall, toy_digits]
probes: [toy_text]
methods:
  frozen:
  lora:
  stable_lora:
  lora_ema: {learning_rate: 0.005, ema_decay: 0.9}
training: {examples: 128, batch: 8}
scoring: {items: 32, curve: [32]}
tuning:
  settings: 2
  seeds: [10]
  grids:
    lora: {learning_rate: [0.00001, 0.005]}
    stable_lora: {learning_rate: [0.00001, 0.005], shrink: [0.001, 0.01]}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("study") / "tuned.yaml"
    file.write_text(STUDY)
    return file


@pytest.fixture(scope="module")
def out(lorabench, study, tmp_path_factory) -> Path:
    """The results folder after ``tune`` and ``run``."""
    folder = tmp_path_factory.mktemp("tuned")
    said = lorabench("tune", study, "--executor", "local", "--out", folder)
    assert "lora_ema: nothing to tune" in said
    lorabench("run", study, "--executor", "local", "--out", folder)
    return folder


def specs(folder: Path) -> dict[tuple[str, int], dict]:
    found = [json.loads(path.read_text()) for path in sorted((folder / "trials").glob("*.json"))]
    assert {record["status"] for record in found} == {"ok"}
    return {(r["spec"]["method"] + "@" + r["spec"]["setting"], r["spec"]["seed"]): r["spec"] for r in found}


def test_a_try_takes_validation_items_and_tuning_seeds(out):
    tried = specs(out / "tuning")
    assert len(tried) == 2 + 2
    assert {seed for _, seed in tried} == {10}
    assert {spec["scoring"]["split"] for spec in tried.values()} == {"validation"}
    base = json.loads((out / "tuning" / "base.json").read_text())
    assert {score["items"] for score in base["scores"].values()} == {32}


def test_what_learns_is_chosen(out):
    found = json.loads((out / "tuning.json").read_text())
    assert {arm: choice["settings"]["learning_rate"] for arm, choice in found["arms"].items()} == {
        "lora": 0.005, "stable_lora": 0.005,
    }  # fmt: skip
    assert {arm: (choice["tried"], choice["grid"]) for arm, choice in found["arms"].items()} == {
        "lora": (2, 2), "stable_lora": (2, 4),
    }  # fmt: skip
    assert len(found["tries"]) == 4


def test_the_run_has_the_chosen_settings_and_other_seeds(out):
    found = specs(out)
    assert {seed for _, seed in found} == {0, 1}
    chosen = json.loads((out / "tuning.json").read_text())["arms"]
    for (arm, _), spec in found.items():
        name = arm.removesuffix("@default")
        assert spec["scoring"]["split"] == "test"
        assert spec["tuned"] == (name in chosen)
        assert spec["settings_tried"] == (2 if name in chosen else 1)
        if name in chosen:
            assert chosen[name]["settings"].items() <= spec["parameters"].items()


def test_the_board_says_who_was_tuned(out):
    with (out / "leaderboard.csv").open(newline="") as file:
        board = {row["method"]: (row["tuned"], row["settings_tried"]) for row in csv.DictReader(file)}
    assert board == {"frozen": ("no", "1"), "lora": ("yes", "2"), "stable_lora": ("yes", "2"), "lora_ema": ("no", "1")}
    assert "Not tuned, while others were: lora_ema." in (out / "report.md").read_text()


def test_a_second_tuning_has_nothing_to_do_and_says_the_same(out, study, lorabench):
    before = state(out)
    said = lorabench("tune", study, "--executor", "local", "--out", out)
    assert "nothing to do" in said
    after = state(out)
    for name, (digest, written) in before.items():
        assert after[name][0] == digest, name
        if "/trials/" in name or name.endswith("base.json"):
            assert after[name][1] == written, f"{name} was written again"


def test_a_lost_try_is_the_only_one_that_runs_again(out, study, lorabench):
    """It resumes as a run does, since it is one: through the same campaign, packs and checkpoints."""
    lost = sorted((out / "tuning" / "trials").glob("*.json"))[0]
    wanted = json.loads(lost.read_text())
    before = state(out)
    lost.unlink()
    lorabench("tune", study, "--executor", "local", "--out", out)
    after = state(out)
    again = json.loads(lost.read_text())
    assert {k: v for k, v in again.items() if k not in ("costs", "host")} == {
        k: v for k, v in wanted.items() if k not in ("costs", "host")
    }
    others = {name for name in before if "tuning/trials/" in name and not name.endswith(lost.name)}
    assert len(others) == 3
    assert all(after[name] == before[name] for name in others)
    assert after["tuning.json"][0] == before["tuning.json"][0]
