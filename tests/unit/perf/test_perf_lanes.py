"""``lorabench perf lanes``: the same packs in one lane and in several; the runs themselves tell what is timed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harness.errors import InputError
from harness.perf import lanes
from harness.perf.lanes import Settings
from harness.store.lanes import Lane, write_lanes
from harness.study.load import load_study

ASKED = Settings("tiny-random-llama", lanes=2, packs=4, rows=3, examples=16)


@pytest.fixture
def runs(monkeypatch) -> list[SimpleNamespace]:
    """Runs are made up: a pack takes ten seconds."""
    done: list[SimpleNamespace] = []

    def run(command: list[str], environment: dict[str, str], log: Path) -> int:
        study, out = load_study(Path(command[4])), Path(command[-1])
        there = 8 / study.cpus if study.device == "cpu" else len(environment[lanes.VISIBLE].split(","))
        packs = len(study.seeds) // 3
        used = min(packs, round(there))
        each = packs / used
        lane = Lane(place="here", packs=round(each), seconds=10 * each, between=0, loading=0, after=0)
        write_lanes(out, [lane] * used)
        done.append(SimpleNamespace(study=study, packs=packs, cards=environment.get(lanes.VISIBLE)))
        return 0

    monkeypatch.setattr(lanes, "run_apart", run)
    monkeypatch.setattr(lanes, "usable_cores", lambda: 6)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(lanes, "this_device", lambda: torch.device("cpu"))
    return done


def test_the_same_packs_run_in_one_lane_and_in_several(runs, tmp_path):
    lanes.main(ASKED, tmp_path)
    assert [(run.packs, run.study.threads, run.study.cpus) for run in runs] == [
        (1, 6, 8), (1, 3, 4), (4, 6, 8), (4, 3, 4),
    ]  # fmt: skip
    assert {run.study.pack for run in runs} == {3}
    told = json.loads((tmp_path / "lanes-cpu.json").read_text())
    assert told["headline"] == {"lanes_2_over_1": 2.0}
    assert [run["seconds"] for run in told["runs"]["2"]] == [20]


def test_lanes_are_cards_where_there_are_any(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "this_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(lanes, "device_name", lambda device: "Fake H100")
    monkeypatch.setattr(lanes, "save", lambda *_: None)
    monkeypatch.setenv(lanes.VISIBLE, "3,5,7")
    lanes.main(ASKED, tmp_path)
    assert [run.cards for run in runs] == ["3", "3", "3,5"]  # the first fills the cache, for both
    monkeypatch.setenv(lanes.VISIBLE, "3")
    with pytest.raises(InputError, match="2 lanes need as many GPUs, and there are 1"):
        lanes.main(ASKED, tmp_path)


def test_a_run_without_all_its_packs_is_no_time(runs, tmp_path, monkeypatch):
    def dies(command: list[str], environment: dict[str, str], log: Path) -> int:
        log.write_text("error: no Ray")
        return 1

    monkeypatch.setattr(lanes, "run_apart", dies)
    with pytest.raises(InputError, match="it ended with status 1: error: no Ray"):
        lanes.main(ASKED, tmp_path)
    assert list(tmp_path.iterdir()) == []
