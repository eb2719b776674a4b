"""Verbs that train nothing answer at once: they import nothing that takes seconds, and start no Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import harness

STUDY = {
    "model": "tiny-random-llama", "dtype": "float32", "threads": 1, "device": "any", "seeds": [0],
    "streams": {"one": ["toy_recall"]}, "methods": {"lora": {}, "stable_lora": {"learning_rate": 0.002}, "frozen": {}},
    "training": {"examples": 16, "batch": 8}, "scoring": {"items": 4, "curve": [], "intruders_after": "never"},
}  # fmt: skip
#: What takes a second or more to import.
HEAVY = ("datasets", "lm_eval", "matplotlib", "pandas", "peft", "ray", "torch", "transformers")
CODE = """
import sys
from harness import cli
try:
    cli.main()
except SystemExit as stop:
    assert not stop.code, stop.code
print([name for name in {heavy} if name in sys.modules])
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a study's file, and its results with their report."""
    folder = tmp_path_factory.mktemp("quick")
    (folder / "mine.yaml").write_text(yaml.safe_dump(STUDY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(tmp_path_factory.getbasetemp() / "lorabench-cache"))
        patch.chdir(folder)
        harness.run("mine.yaml", quiet=True)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        "methods",
        "tasks",
        "studies",
        "plan mine.yaml",
        "status mine.yaml",
        "trials mine.yaml",
        "run mine.yaml --executor ray",
    ],
)
def test_a_verb_imports_nothing_that_takes_seconds(finished, tmp_path_factory, words):
    cache = str(tmp_path_factory.getbasetemp() / "lorabench-cache")
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(heavy=HEAVY), *words.split()],
        capture_output=True, text=True, cwd=finished, check=False, env=os.environ | {"LORABENCH_CACHE": cache},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    if words.startswith("run"):
        assert "nothing to do" in done.stdout
        answer, report = done.stdout.splitlines()[-3:-1]
        assert report.endswith("report.html, as it was")
        assert "nothing was tested" in answer or "No contestant is ranked" in answer or "average accuracy" in answer


@pytest.fixture
def lorabench(finished, in_shared_cache, in_process, monkeypatch):
    """The command in the folder of ``finished``."""
    monkeypatch.chdir(finished)
    return in_process


def test_a_plan_as_json_has_every_trial(lorabench, finished):
    plan = json.loads(lorabench("plan", "mine.yaml", "--json", "--out", "new")[1])
    trials = {trial["arm"]: trial for trial in plan["trials"]}
    assert set(trials) == set(STUDY["methods"])
    assert {(t["status"], t["order"], t["seed"]) for t in trials.values()} == {("missing", "one", 0)}
    assert {arm: t["settings"] for arm, t in trials.items()} == {
        "lora": {}, "stable_lora": {"learning_rate": 0.002}, "frozen": {},
    }  # fmt: skip
    assert trials["frozen"]["pack"] is None
    assert {trials["lora"]["pack"], trials["stable_lora"]["pack"]} == set(plan["packs_to_run"])
    assert plan["forecast_seconds"] > 0
    assert plan["folder"] == str(finished / "new")
    done = json.loads(lorabench("plan", "mine.yaml", "--json")[1])
    assert {trial["status"] for trial in done["trials"]} == {"ok"}
    assert (done["packs_to_run"], done["forecast_seconds"]) == ([], 0)


def test_a_plan_shows_settings_that_differ_alone(lorabench, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = lorabench("plan", "mine.yaml")[1]
    shown = {
        line.split("│")[1].strip(): line.split("│")[4].strip() for line in out.splitlines() if line.startswith("│")
    }
    assert shown == {"lora": "defaults", "stable_lora": "learning_rate=0.002", "frozen": "defaults"}


def test_ctrl_c_in_a_run_says_what_is_kept(lorabench, finished, monkeypatch):
    from harness.running import campaign

    def stopped(opened, *_):
        (opened.folder / "running").mkdir(parents=True)
        (opened.folder / f"running/{opened.plan.packs[0].name}.safetensors").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "run", stopped)
    status, _, err = lorabench("run", "mine.yaml", "--executor", "local", "--out", "other")
    assert status == 130
    assert err.splitlines()[-1] == (
        f"stopped; 0 of 3 trials finished and kept in {finished / 'other'}, 1 pack will go on from the last task "
        "boundary; run the same command to go on"
    )


def test_a_chosen_trial_takes_its_pack_along(lorabench, finished):
    from harness.executors.hardware import likely_device
    from harness.running import campaign

    opened = campaign.load_campaign("mine.yaml", model=None, out=finished / "new", device=likely_device)
    whole = campaign.read_state(opened)
    names = {trial.spec.arm: trial.fingerprint for trial in opened.plan.trials}
    assert whole.of(opened) is whole
    one = replace(opened, only=frozenset({names["lora"]}))
    assert set(whole.of(one).statuses) == {names["lora"], names["stable_lora"]}
    assert (len(whole.of(one).todo), whole.of(one).untrained_todo) == (1, 0)
    base = replace(opened, only=frozenset({names["frozen"]}))
    assert set(whole.of(base).statuses) == {names["frozen"]}
    assert (whole.of(base).todo, whole.of(base).untrained_todo) == ((), 1)


def test_a_run_of_one_trial_says_what_is_trained_for_it(lorabench, monkeypatch):
    trial = json.loads(lorabench("trials", "mine.yaml", "--arm", "lora", "--json")[1])[0]["trial"]
    status, out, err = lorabench("run", "mine.yaml", "--executor", "local", "--trial", trial[:10], "--no-report")
    assert (status, err) == (0, "")
    assert f"--trial: lora, order one, seed 0 ({trial[:12]})" in out
    assert "its pack of 2 trials is trained whole" in out
    assert "all 2 trials are done (2 ok); nothing to do" in out
    status, _, err = lorabench("run", "mine.yaml", "--executor", "local", "--trial", "zz")
    assert status == 2
    assert "--trial zz: 0 trials begin with 'zz'" in err
    status, _, err = lorabench("run", "mine.yaml", "--executor", "local", "--trial", "")
    assert (status, err.splitlines()[0]) == (2, "error: --trial: this is empty")
