"""What a process keeps from job to job, and what a run finds in the cache instead of computing it."""

from __future__ import annotations

import shutil

import campaigns
import pytest
from campaigns import TOY

from harness.data import paths
from harness.running import job
from harness.running.base import run_base
from harness.store.results import read_base, read_trials

STUDY = TOY | {
    "methods": {"lora": {}, "self_distill": {}}, "training": {"examples": 16, "batch": 8},
    "scoring": {"items": 8, "curve": []}, "pack": 1,
}  # fmt: skip


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """The models that jobs have loaded."""
    loaded: list[str] = []
    load = job.load_model
    monkeypatch.setattr(job, "load_model", lambda path, **rest: loaded.append(path.name) or load(path, **rest))
    return loaded


@pytest.fixture
def scored(monkeypatch) -> list[str]:
    """The base models that were scored."""
    names: list[str] = []

    def counted(each, report):
        names.append(each.name)
        run_base(each, report)

    monkeypatch.setattr("harness.running.worker.run_base", counted)
    return names


def test_jobs_of_one_process_load_the_model_once(tmp_path, loads):
    campaign = campaigns.load(campaigns.write_study(tmp_path, STUDY), tmp_path / "out")
    assert len(campaign.plan.packs) == 2
    state = campaigns.run(campaign)
    assert state.complete
    assert len(loads) == 1
    assert not job._kept  # nothing stays behind a run


def test_records_are_those_of_a_model_loaded_for_each_job(tmp_path, monkeypatch, loads):
    file = campaigns.write_study(tmp_path, STUDY)
    campaigns.run(campaigns.load(file, tmp_path / "kept"))
    set_up = job.set_up

    def anew(each):
        job.forget()
        return set_up(each)

    for module in ("pack", "base"):
        monkeypatch.setattr(f"harness.running.{module}.set_up", anew)
    campaigns.run(campaigns.load(file, tmp_path / "anew"))
    assert len(loads) >= 3
    first, second = (
        [record.model_dump(exclude={"costs", "host"}) for record in read_trials(tmp_path / name).records]
        for name in ("kept", "anew")
    )
    assert first == second


def test_base_scores_are_found_in_the_cache(tmp_path, scored):
    shutil.rmtree(paths.cache_dir() / "bases", ignore_errors=True)  # of other tests
    file = campaigns.write_study(tmp_path, STUDY)
    first, second, third = (campaigns.load(file, tmp_path / name) for name in ("one", "two", "three"))
    campaigns.run(first)
    campaigns.run(second)
    assert scored == ["base"]
    (kept,) = (paths.cache_dir() / "bases").glob("*/base.json")
    key = kept.parent.name
    assert read_base(second.folder, key) == read_base(first.folder, key)
    kept.write_text(kept.read_text().replace('"score"', '"scores"', 1))  # damaged: scored anew
    campaigns.run(third)
    assert scored == ["base", "base"]
    assert read_base(third.folder, key) is not None
