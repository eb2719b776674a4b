"""A trial's adapter, exported and audited: the trial's own numbers come back, bit for bit."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def audited(local_run, lorabench, tmp_path_factory):
    """(records of three trials, the audit of their exports)."""
    folder = tmp_path_factory.mktemp("exports")
    trials = [json.loads(path.read_text()) for path in sorted((local_run / "trials").glob("*.json"))]
    wanted = {("lora", 0), ("stable_lora", 1), ("combined", 0)}
    trained = [trial for trial in trials if (trial["spec"]["method"], trial["spec"]["seed"]) in wanted]
    for trial in trained:
        lorabench("export", trial["fingerprint"], folder / trial["fingerprint"], "--study", "smoke", "--out", local_run)
    paths = [folder / trial["fingerprint"] for trial in trained]
    lorabench("audit", *paths, "--model", "tiny-random-llama", "--tasks", "toy_recall,toy_digits",
              "--probes", "toy_text", "--items", 64, "--threads", 2, "--out", folder / "audit")  # fmt: skip
    return trained, json.loads((folder / "audit" / "audit.json").read_text())


def test_scores_are_the_trial_s_own(audited):
    trained, found = audited
    assert len(found["adapters"]) == len(trained) == 3
    assert not found["sequence"], "three adapters and two tasks"
    for trial, adapter in zip(trained, found["adapters"], strict=True):
        for name, scores in (trial["tasks"] | trial["probes"]).items():
            assert adapter["scores"][name]["score"] == scores["score"][-1], (trial["spec"]["method"], name)
            assert adapter["scores"][name]["correct"] == scores["correct"][-1]


def test_base_scores_are_the_study_s(audited, local_run):
    scores = json.loads((local_run / "base.json").read_text())["scores"]
    for task in audited[1]["tasks"]:
        assert task["base"]["score"] == scores[task["name"]]["score"]
        assert task["base"]["correct"] == scores[task["name"]]["correct"]


def test_intruders_are_the_trial_s_own(audited):
    trained, found = audited
    for trial, adapter in zip(trained, found["adapters"], strict=True):
        assert adapter["intruders"] == trial["intruders"][-1]


def test_the_stack_is_the_trial_s(audited):
    """So that the numbers above may stand beside each other."""
    trained, found = audited
    assert found["stack"] == trained[0]["stack"]
    assert found["model_digest"] == trained[0]["spec"]["model_digest"]
    assert {t["name"]: t["digest"] for t in found["tasks"]} == trained[0]["spec"]["task_digests"]
