"""The figure of a study whose arms train on different numbers of examples."""

from __future__ import annotations

import csv

import pytest
import synthetic
from synthetic import QUICK, Folder, trial

from harness.report import write_report

pytestmark = pytest.mark.drawn


def trained_on(arm: str, examples: int, seed: int):
    method, _, setting = arm.partition("@")
    training = {"examples": examples, "adapter": {"rank": 8}}
    spec = synthetic.spec(method, QUICK, seed=seed, setting=setting or "default", training=training)
    return trial(arm, QUICK, seed=seed, spec=spec)


def rows(folder):
    with (folder / "figures" / "accuracy_by_examples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_joins_what_differs_in_examples_alone(tmp_path):
    names = [(f"lora@hot,examples={n}", n) for n in (16, 64)] + [
        ("combined@examples=16", 16),
        ("combined@examples=64", 64),
    ]
    records = [trained_on(name, n, seed) for name, n in names for seed in range(3)]
    write_report(tmp_path, Folder([*records, *(trial("frozen", QUICK, seed=seed) for seed in range(3))]))
    found = {(row["line"], row["metric"], row["examples"]): row for row in rows(tmp_path)}
    assert {key[0] for key in found} == {"lora@hot", "combined"}
    assert {key[2] for key in found} == {"16", "64"}
    finals = [r.matrix()[-1] for r in records if r.spec.arm == "lora@hot,examples=16"]
    row = found["lora@hot", "average_accuracy", "16"]
    assert float(row["mean"]) == pytest.approx(sum(map(sum, finals)) / 9)
    assert row["arm"] == "lora@hot,examples=16"
    page = (tmp_path / "report.md").read_text()
    assert page.index("### Accuracy against training examples") < page.index("### Sample efficiency")
    assert "| examples |" in page, "the table of hyper-parameters says it of every arm"


def test_a_study_of_one_budget_has_no_such_figure(tmp_path):
    write_report(tmp_path, Folder([trained_on("lora", 16, seed) for seed in range(3)]))
    assert not (tmp_path / "figures" / "accuracy_by_examples.csv").exists()
    assert "### Accuracy against training examples" not in (tmp_path / "report.md").read_text()
