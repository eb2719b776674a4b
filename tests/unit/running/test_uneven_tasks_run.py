"""A stream whose tasks have unlike numbers of examples, from start to records, and over a kill at a boundary."""

from __future__ import annotations

from pathlib import Path

import benchmark_files
import campaigns
import pytest
import yaml
from campaigns import TOY
from folders import records

from harness.data.sources import cl_benchmark
from harness.running.pack import PackRun

ARMS = ("frozen", "lora", "lora_ema", "multitask", "combined", "lora_replay")
STREAM = ["scl_sst2", "scl_cb", "scl_rte"]  # 48 examples are asked for; 54, 21 and 54 are there


class Killed(KeyboardInterrupt):
    """Not an error that a worker turns into a record."""


@pytest.fixture
def file(tmp_path, in_shared_cache, monkeypatch) -> Path:
    monkeypatch.setattr(cl_benchmark, "_of_study", None)
    root = tmp_path / "CL_Benchmark"
    benchmark_files.write(root, "SC/SST-2", ["Good", "Bad"])
    benchmark_files.write(root, "NLI/CB", ["entailment", "contradiction", "neutral"], train=24, test=9)
    benchmark_files.write(root, "NLI/RTE", ["contradiction", "entailment"])
    study = TOY | {
        "streams": {"order": STREAM}, "methods": {arm: {} for arm in ARMS}, "cl_benchmark": str(root),
        "training": {"examples": 48, "batch": 8}, "scoring": {"items": 6, "curve": [8, 32], "intruders_after": "never"},
    }  # fmt: skip
    return campaigns.write_study(tmp_path, study)


def run(file: Path, folder: Path) -> dict[str, dict]:
    campaigns.run(campaigns.load(file, folder))
    return {record["spec"]["method"]: record for record in records(folder).values()}


def test_answers_are_written_where_the_study_says_so(file, tmp_path):
    study = yaml.safe_load(file.read_text())
    scoring = study["scoring"] | {"answers": "generated", "curve": []}
    probes = ["toy_digits"]  # of choices too, and never trained on: as everywhere
    asked = {"methods": {"lora": {}}, "streams": {"order": STREAM[1:]}, "scoring": scoring, "probes": probes}
    found = run(campaigns.write_study(tmp_path, study | asked, "written"), tmp_path / "written")["lora"]
    assert found["status"] == "ok"
    assert {scores["metric"] for scores in found["tasks"].values()} == {"exact_match"}
    assert {scores["metric"] for scores in found["probes"].values()} == {"acc"}
    assert found["spec"]["scoring"]["answers"] == "generated"


def test_tasks_of_unlike_length_are_learnt_and_resumed(file, tmp_path, monkeypatch):
    found = run(file, tmp_path / "whole")
    assert {record["status"] for record in found.values()} == {"ok"}
    for record in found.values():
        grids = [curve["examples"] for curve in record["curves"]]
        assert grids == [[0, 8, 32, 48], [0, 8, 16], [0, 8, 32, 48]], "every arm sees as many"
        assert set(record["sources"]) == set(STREAM)
        assert "CL_Benchmark/NLI/CB; train.json with 24 rows" in record["sources"]["scl_cb"]
        assert record["tasks"]["scl_cb"]["majority"] in (1 / 3, 1 / 2, 2 / 3)
    spent = {arm: sum(curve["tokens"][-1] for curve in record["curves"]) for arm, record in found.items()}
    assert spent["lora"] == spent["multitask"] == spent["lora_ema"] > 0, "the same examples, mixed or not"

    checkpoint, killed = PackRun._checkpoint, set()

    def kill_once(self, stage):
        checkpoint(self, stage)
        if (self.pack.name, stage) not in killed:
            killed.add((self.pack.name, stage))
            raise Killed

    monkeypatch.setattr(PackRun, "_checkpoint", kill_once)
    while True:
        try:
            again = run(file, tmp_path / "killed")
            break
        except Killed:
            continue
    assert len(killed) >= 3
    assert again == found
