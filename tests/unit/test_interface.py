"""``import harness``: a study from Python to its tables, and instant to import."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import write_peft
from synthetic import QUICK, failed, quick

import harness as lb
from harness.errors import InputError
from harness.store import write_trial

STUDY = {
    "model": "tiny-random-llama", "dtype": "float32", "threads": 1, "device": "cpu", "seeds": [0, 1],
    "streams": {"one": ["toy_recall"]}, "methods": {"lora": {}, "frozen": {}},
    "training": {"examples": 16, "batch": 8}, "scoring": {"items": 4, "curve": []},
}  # fmt: skip


@pytest.fixture
def file(tmp_path, tmp_path_factory, monkeypatch) -> Path:
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path_factory.getbasetemp() / "lorabench-cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(STUDY))
    return tmp_path / "mine.yaml"


def test_importing_it_imports_nothing_else():
    code = (
        "import json, sys; before = set(sys.modules); import harness; print(json.dumps([*set(sys.modules) - before]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(json.loads(done.stdout)) & {"torch", "pandas", "pydantic", "rich", "harness.study", "harness.cli"}


def test_every_name_is_a_function_with_a_docstring():
    """None is that of a package inside, which would take its place once it is imported."""
    packages = {module.name for module in pkgutil.iter_modules(lb.__path__)}
    assert not packages & set(lb.__all__)
    assert all(callable(getattr(lb, name)) and getattr(lb, name).__doc__ for name in lb.__all__)


def test_a_study_runs_from_python(file):
    study = lb.load_study(file, name="one-seed", seeds=[0])
    planned = lb.plan(study)
    assert list(planned["arm"]) == ["frozen", "lora"]
    assert set(planned["status"]) == {"missing"}
    folder = lb.run(study, quiet=True)
    assert folder == file.parent / "results" / "one-seed"
    assert (folder / "report.html").exists()
    assert set(lb.plan(study)["status"]) == {"ok"}
    trials = lb.results("one-seed")
    assert set(trials["trial"]) == set(planned["trial"])
    assert trials["average_accuracy"].between(0, 1).tolist() == [True, True]


def test_a_changed_study_needs_a_name(file):
    with pytest.raises(InputError, match="needs a name") as caught:
        lb.load_study(file, seeds=[0])
    assert "mine-mine" in str(caught.value.remedy)
    assert lb.load_study(file).name == "mine"
    with pytest.raises(InputError, match="seed"):
        lb.load_study(file, name="x", seeds=["a"])


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of made-up trials, one of which failed."""
    place = tmp_path_factory.mktemp("results")
    for record in (*quick().records, failed("lora", QUICK, status="oom", seed=9)):
        write_trial(place, record)
    return place


def test_results_have_a_row_for_each_trial(folder):
    trials = lb.results(folder)
    assert len(set(trials["trial"])) == len(trials)
    assert list(trials["status"]).count("oom") == 1
    assert trials.loc[trials["status"] == "oom", "average_accuracy"].isna().all()
    assert trials.loc[trials["status"] == "ok", "average_accuracy"].notna().all()


def test_tidy_results_are_trials_csv(folder):
    import pandas as pd

    lb.write_report(folder)
    pd.testing.assert_frame_equal(lb.results(folder, tidy=True), pd.read_csv(folder / "trials.csv"))


def test_a_leaderboard_is_leaderboard_csv(folder, tmp_path):
    import pandas as pd

    lb.write_report(folder)
    board = lb.leaderboard(folder)
    board.to_csv(tmp_path / "board.csv", index=False)
    ours, wanted = (pd.read_csv(path) for path in (tmp_path / "board.csv", folder / "leaderboard.csv"))
    assert list(ours.columns) == list(wanted.columns)
    assert list(ours["method"]) == list(wanted["method"])
    left, right = ours.select_dtypes("number"), wanted.select_dtypes("number")
    assert {"average_accuracy", "average_accuracy_ci_low", "forgetting"} <= set(right.columns)
    pd.testing.assert_frame_equal(left, right, rtol=1e-8, check_dtype=False)


def test_an_audit_from_python_is_audit_csv(in_shared_cache, monkeypatch, tmp_path):
    import pandas as pd
    import torch

    monkeypatch.chdir(tmp_path)
    q = "model.layers.0.self_attn.q_proj"
    write_peft(tmp_path / "mine", {q: (torch.ones(2, 64), torch.zeros(64, 2))})
    table = lb.audit("mine", "tiny-random-llama", tasks=["toy_recall"], items=8, quiet=True, threads=1)
    assert list(table["adapter"]) == ["(base)", "mine"]
    assert table.loc[1, "toy_recall_difference"] == 0
    assert len(pd.read_csv(f"{table.attrs['folder']}/audit.csv")) == 2
    assert "mine" in table.attrs["answer"][0]
    with pytest.raises(InputError, match="itms"):
        lb.audit("mine", "tiny-random-llama", tasks=["toy_recall"], itms=8)


def test_a_comparison_says_what_the_verb_says(folder):
    from harness.report import compare_studies
    from harness.report.comparison import as_data

    table = lb.compare(folder, "stable_lora", "lora")
    data = as_data(compare_studies(folder, "stable_lora", folder, "lora"))
    assert table.attrs["answer"] == data["answer"]
    assert table.loc["average_accuracy", "mean"] == data["differences"]["average_accuracy"]["mean"]


def test_a_folder_that_is_not_there_is_refused(folder):
    with pytest.raises(InputError, match=r"no results here\n  -> run the study first: .* lorabench run STUDY"):
        lb.results("quack")
