"""What a process keeps from job to job, and what a run finds in the cache instead of computing it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import campaigns
import pytest
from campaigns import CPU, TOY

from harness.data import paths
from harness.errors import InputError
from harness.running import job
from harness.running.base import run_base
from harness.running.campaign import read_state
from harness.running.missing import Run
from harness.running.progress import Tracker
from harness.store.results import read_base, read_trials
from harness.study.stack import Device

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


#: Packs with other ranks, and with the tasks in another order.
ALIKE = {
    "methods": {"lora": {}, "lora@large": {"adapter": {"rank": 16}}, "self_distill": {}},
    "streams": {"there": ["toy_recall", "toy_digits"], "back": ["toy_digits", "toy_recall"]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        (ALIKE, 1),
        ({"methods": {"lora": {}, "lora@q": {"adapter": {"targets": ["q_proj"]}}}}, 2),
        ({"methods": {"lora": {}}, "streams": {"one": ["toy_recall"], "other": ["toy_digits"]}}, 3),  # and the base's
    ],
)
def test_the_model_is_loaded_again_for_other_targets_or_tasks(tmp_path, loads, changes, count):
    shutil.rmtree(paths.cache_dir() / "bases", ignore_errors=True)  # of other tests: the base job loads first
    campaign = campaigns.load(campaigns.write_study(tmp_path, STUDY, **changes), tmp_path / "out")
    assert len(campaign.plan.packs) == (6 if changes is ALIKE else 2)
    assert campaigns.run(campaign).complete
    assert len(loads) == count


def test_records_are_those_of_a_model_loaded_for_each_job(tmp_path, monkeypatch, loads):
    file = campaigns.write_study(tmp_path, STUDY, **ALIKE)
    campaigns.run(campaigns.load(file, tmp_path / "kept"))
    set_up = job.set_up

    def anew(each):
        job.forget()
        return set_up(each)

    for module in ("pack", "base"):
        monkeypatch.setattr(f"harness.running.{module}.set_up", anew)
    campaigns.run(campaigns.load(file, tmp_path / "anew"))
    assert len(loads) >= 7  # for each pack of the second run
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


# -- what a job takes along -------------------------------------------------------------------------------------------


@pytest.fixture
def run_of(tmp_path) -> Callable[..., Run]:
    """``run_of(device, pack=2)``: a run of the study with these keys changed, which sends nothing."""

    def make(device: Device = CPU, **changes: Any) -> Run:
        file = campaigns.write_study(tmp_path, STUDY, device=device.kind, **changes)
        opened = campaigns.load(file, tmp_path / "out", device=device)
        executor: Any = SimpleNamespace(ask=lambda question, device: {"digest": "1.0"})
        tracker = Tracker(opened.plan, opened.plan.packs, device.kind, tmp_path, lambda standing: None)
        return Run(opened, executor, device, {}, read_state(opened), lambda *_: None, tracker)

    return make


H100 = Device("cuda", "H100", 80.0)


def gpus(run: Run) -> list[float]:
    """What jobs take of a card: that of the base, and of the first pack of each arm."""
    packs = {pack.trials[0].spec.arm: pack for pack in reversed(run.campaign.plan.packs)}
    return [run.job(None).gpus, *(run.job(packs[arm]).gpus for arm in ("lora", "full_finetune"))]


def test_a_pack_takes_the_share_of_a_card_that_it_needs(run_of):
    both = {"methods": {"lora": {}, "full_finetune": {}}, "seeds": [0, 1, 2, 3]}
    base, small, dense = gpus(run_of(H100, **both, pack=1, resources={"num_gpus": "plan"}))
    assert 0 < base <= small <= dense < 0.1
    assert gpus(run_of(H100, **both, pack=4, resources={"num_gpus": "plan"}))[1] > small, "rows take room"
    on_less = gpus(run_of(Device("cuda", "T4", 16.0), **both, pack=1, resources={"num_gpus": "plan"}))
    assert on_less[1] > small, "of a card with less memory it is a larger share"
    assert gpus(run_of(H100, **both)) == [1, 1, 1]
    assert gpus(run_of(H100, **both, resources={"num_gpus": 0.25})) == [0.25, 0.25, 0.25]
    run = run_of(resources={"num_gpus": "plan"})
    assert run.job(run.campaign.plan.packs[0]).gpus == 0, "on a CPU"


def test_a_machine_with_the_same_files_takes_a_job(run_of, tmp_path):
    mine = run_of().job(None)
    there = job.relocated(replace(mine, model_path=tmp_path / "elsewhere", cache=tmp_path), tmp_path / "there")
    assert there == replace(mine, folder=tmp_path / "there")


@pytest.mark.parametrize(
    ("model", "task", "named"),
    [
        (True, False, "the model tiny-random-llama"), (False, True, "the task toy_digits"),
        (True, True, "the model tiny-random-llama, the task toy_digits"),
    ],
)  # fmt: skip
def test_a_machine_with_other_files_takes_no_job(run_of, tmp_path, model, task, named):
    mine = run_of().job(None)
    if model:
        mine = replace(mine, model_digest="other")
    if task:
        mine = replace(mine, task_digests={**mine.task_digests, "toy_digits": "other"})
    with pytest.raises(InputError) as caught:
        job.relocated(mine, tmp_path / "there")
    assert (
        caught.value.what
        == f"the machine {socket.gethostname()} of the cluster has other files of {named} than the run"
    )
    assert caught.value.where == str(paths.cache_dir())
    assert "lorabench fetch" in str(caught.value.remedy)
