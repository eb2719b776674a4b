"""``lorabench perf records``: what it makes is what readers take, and what is over its budget is said."""

from __future__ import annotations

import json
import os

import pytest

from harness.perf import records
from harness.perf.made_records import MadeStudy, make_study, write_records
from harness.perf.verbs import Cost
from harness.report.study import gather
from harness.store.results import MANIFEST, read_trials


@pytest.fixture
def made(tmp_path, in_shared_cache, monkeypatch) -> MadeStudy:
    monkeypatch.setenv("LORABENCH_PLUGINS", str(tmp_path / "plugins"))
    found = make_study(tmp_path, 50)
    assert write_records(found) == 60, "at least 50: 5 arms, 3 orders, 4 seeds"
    return found


def test_made_records_are_those_of_a_study_that_is_done(made, in_process):
    """Read and checked as any other, planned by the same study, and of one board."""
    readout = read_trials(made.results)
    assert (len(readout.records), readout.quarantined) == (60, {})
    study = gather(readout)
    assert {arm.name: len(arm.trials) for arm in study.arms} == readout.expected
    assert study.mixtures == []
    assert len({trial.metrics["average_accuracy"] for trial in study.trials}) > 40, "scores vary"
    assert all(arm.complete and len(arm.values("intruder_distance")) == 12 for arm in study.arms if arm.trains)
    manifest = (made.results / MANIFEST).read_bytes()
    status, said, _ = in_process("run", made.file, "--out", made.results, "--executor", "local", "--no-report")
    assert (status, "nothing to do" in said) == (0, True)
    assert (made.results / MANIFEST).read_bytes() == manifest, (
        "a report made before the run is still that of the folder"
    )


@pytest.fixture
def costs(monkeypatch) -> dict[str, Cost]:
    """What a command costs, by verb; nothing is run, and the environment of each is noted."""
    by_verb = dict.fromkeys(("status", "plan", "report", "run"), Cost(1.0, 1.0, 0.2))
    monkeypatch.setattr(records, "write_records", lambda made: 60)
    monkeypatch.setattr(records, "cost", lambda words: by_verb[words[0]])
    return by_verb


def test_within_its_budgets_nothing_is_broken(costs, tmp_path):
    before = dict(os.environ)
    assert records.main(50, tmp_path) == []
    told = json.loads((tmp_path / "records-cpu.json").read_text())
    assert (told["records"], told["over_budget"]) == (60, [])
    assert told["verbs"]["run, nothing to do"] == {"seconds": 1.0, "cpu_seconds": 1.0, "peak_gib": 0.2}
    assert dict(os.environ) == before


def test_a_broken_budget_is_said_and_ends_with_1(costs, tmp_path, in_process):
    costs["plan"], costs["run"] = Cost(5.1, 1.0, 0.2), Cost(1.0, 1.0, 0.7)
    status, _, said = in_process("perf", "records", "--records", 50, "--out", tmp_path)
    assert status == 1
    assert said.splitlines() == [
        "over its budget: plan: 5.1 s, at most 5",
        "over its budget: run, nothing to do: 0.70 GiB, at most 0.6",
    ]
