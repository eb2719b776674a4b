"""``lorabench perf campaign``: a run from a cold start, its parts, and what the peers' way would take on its trials."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harness.data.paths import studies_dir
from harness.errors import InputError
from harness.perf import campaign, campaign_peers
from harness.perf.campaign import Settings
from harness.perf.common import run_apart
from harness.study.load import load_study

SMALL = Settings("smoke", 1, small=True)


@pytest.fixture
def without_a_run(monkeypatch, in_shared_cache):
    """What our side took is made up, and nothing is run."""
    ours = {"trials": 3, "seconds": 10.0, "trials_per_hour": 1080.0}
    monkeypatch.setattr(campaign, "_ours", lambda folder: ours)


def test_the_study_is_the_first_order_with_three_methods(tmp_path):
    study = campaign._study(Settings("core", 4), tmp_path / "campaign.yaml")
    core = load_study(studies_dir() / "core.yaml")
    assert list(study.methods) == ["lora", "stable_lora", "lora_ema"]
    assert (list(study.streams), study.seeds) == (["order1"], (0, 1, 2, 3))
    assert (study.training, study.scoring, study.probes) == (core.training, core.scoring, core.probes)
    small = campaign._study(SMALL, tmp_path / "small.yaml")
    assert small.methods["lora"] == {"learning_rate": 0.005}
    assert small.training.examples == 64


def test_a_run_that_fails_is_no_time(tmp_path, monkeypatch, in_shared_cache):
    def fails(command, environment, log):
        log.write_text("error: study.yaml: there is no such thing\n")
        return 2

    monkeypatch.setattr(campaign, "run_apart", fails)
    with pytest.raises(InputError, match=r"it ended with status 2: error: study\.yaml: there is no such thing"):
        campaign.main(SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_nothing_behind(tmp_path):
    """Nor what it has started."""
    code = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    assert run_apart([sys.executable, "-c", code], {}, tmp_path / "log") == 0
    stat = Path("/proc", (tmp_path / "log").read_text().strip(), "stat")
    until = time.monotonic() + 10
    while time.monotonic() < until and stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.05)
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_cold_cache_has_all_but_decompositions(tmp_path, monkeypatch):
    warm = tmp_path / "warm"
    for name in ("models", "spectra", "tasks", "records"):
        (warm / name).mkdir(parents=True)
    monkeypatch.setenv("LORABENCH_CACHE", str(warm))
    cold = campaign._cold_cache(tmp_path / "cold")
    assert sorted(path.name for path in cold.iterdir()) == ["models", "tasks"]


def test_without_peers_there_is_no_ratio(tmp_path, monkeypatch, without_a_run):
    monkeypatch.setattr(campaign, "missing", lambda: "accelerate: not installed")
    campaign.main(SMALL, tmp_path)
    (file,) = tmp_path.glob("campaign-*.json")
    found = json.loads(file.read_text())
    assert found["peers"] == {"skipped": "accelerate: not installed"}
    assert found["headline"] == {"campaign_trials_per_hour": 1080.0}
    campaign.main(Settings("smoke", 1, small=True, peers=False), tmp_path)
    assert json.loads(file.read_text())["peers"] == {"skipped": "not asked for"}


def test_a_part_is_multiplied_by_how_often_it_occurs(tmp_path, monkeypatch):
    """6 trials of 2 tasks with 8 steps each; probes and SVDs after the last task alone."""
    study = campaign._study(Settings("smoke", 2, small=True), tmp_path / "campaign.yaml")
    scoring = study.scoring.model_copy(update={"probes_after": "last_task", "intruders_after": "last_task"})
    study = study.model_copy(update={"scoring": scoring})
    records = [SimpleNamespace(fingerprint=str(i)) for i in range(6)]
    monkeypatch.setattr(campaign_peers, "read_trials", lambda folder: SimpleNamespace(records=records))
    monkeypatch.setattr(campaign_peers, "find_adapter", lambda folder, name: (folder, 0))
    monkeypatch.setattr(campaign_peers, "export_peft", lambda *_: None)
    step = {"start_seconds": 5.0, "step_seconds": 0.5}
    monkeypatch.setattr(campaign_peers, "_training", lambda *_: step)
    monkeypatch.setattr(campaign_peers, "_decompositions", lambda *_: 7.0)
    monkeypatch.setattr(campaign_peers, "_tasks", lambda study, names: names)
    monkeypatch.setattr(campaign_peers, "in_a_fresh_process", lambda tasks, *_: 10.0 * len(tasks))
    found = campaign_peers.peers_way(study, tmp_path, tmp_path, torch.device("cpu"), tmp_path)
    assert found["scaled_by"] == {
        "trials": 6, "steps_of_a_trial": 16, "checkpoints": 7, "checkpoints_without_probes": 6,
        "checkpoints_with_svds": 6,
    }  # fmt: skip
    seconds = {"train": 6 * (5 + 16 * 0.5), "score": 7 * 30 + 6 * 20, "analysis": 6 * 7}
    assert found["seconds"] == {**seconds, "all": sum(seconds.values())}


@pytest.mark.slow
def test_a_whole_campaign(tmp_path, in_shared_cache):
    campaign.main(SMALL, tmp_path)
    (file,) = tmp_path.glob("campaign-*.json")
    found = json.loads(file.read_text())
    ours, theirs = found["ours"], found["peers"]
    assert ours["trials"] == 3
    assert sum(ours["parts"].values()) == pytest.approx(ours["seconds"])
    assert all(ours["parts"][part] > 0 for part in ("imports", "base", "packs", "decomposition", "report"))
    assert set(theirs["measured"]) >= {"start_seconds", "step_seconds", "checkpoint_seconds"}
    assert found["headline"] == {
        "campaign_trials_per_hour": 3 * 3600 / ours["seconds"],
        "campaign_vs_peers": theirs["seconds"]["all"] / ours["seconds"],
    }
    assert theirs["scaled_by"]["checkpoints"] == 3 * 2 + 1
