"""A custom method that fails while it trains: what is recorded of it, and that it takes no other trial with it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

import broken_methods
import campaigns
import pytest
import torch
from broken_methods import BROKEN, Bound, updating
from campaigns import TOY

from harness.engine import rows
from harness.engine.model.joining import LONGEST_IN_LINE
from harness.engine.trunk import Trunk
from harness.errors import InputError, SettingError
from harness.executors.interface import Watcher
from harness.method import registry
from harness.store.results import read_trials

STUDY = TOY | {
    "seeds": [0, 1], "streams": {"one": ["toy_recall"]}, "training": {"examples": 16, "batch": 8},
    "scoring": {"items": 8, "curve": []},
}  # fmt: skip


class Exits(Bound):
    def before_step(self, bank, active) -> None:
        sys.exit(3)


class Refuses(Bound):
    def before_step(self, bank, active) -> None:
        raise InputError("a setting that does not fit", where="here", remedy="another")


class Meets(Bound):
    def before_step(self, bank, active) -> None:
        raise SettingError("no room", remedy="another", key="adapter.rank")


class Cancels(Bound):
    def before_step(self, bank, active) -> None:
        raise asyncio.CancelledError


class Fills(Bound):
    def before_step(self, bank, active) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 8 EB")


class FillsTheGpu(Bound):
    def before_step(self, bank, active) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def nearly_over() -> None:
    """The clock of the study's half hour is at work; let it strike soon, so that no test waits for it."""
    left, again = signal.getitimer(signal.ITIMER_REAL)
    assert 0 < left <= 30 * 60
    assert again
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)


class Hangs(Bound):
    def before_step(self, bank, active) -> None:
        nearly_over()
        while True:
            time.sleep(0.01)


class HangsOn(Bound):
    def before_step(self, bank, active) -> None:
        """It takes every error for one of its own."""
        nearly_over()
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                continue


METHODS = {method.name: method for method, *_ in BROKEN} | {
    kind.__name__.lower(): updating(kind)
    for kind in (Exits, Refuses, Meets, Cancels, Fills, FillsTheGpu, Hangs, HangsOn)
}


@pytest.fixture
def run(tmp_path, in_shared_cache, monkeypatch):
    """``run(name)``: a study of this broken method beside two that are whole, into the folder that it returns."""
    whole = registry.methods()

    def go(*names: str, jobs: list[str] | None = None, **changes) -> Path:
        monkeypatch.setattr(registry, "methods", lambda: whole | {name: METHODS[name] for name in names})
        arms = {"lora": {}, **{name: {} for name in names}, "stable_lora": {}}
        file = campaigns.write_study(tmp_path, STUDY | {"methods": arms}, "broken", **changes)
        study = campaigns.load(file, tmp_path / "out")

        def watch(job: str, units: float, what: str) -> None:
            if jobs is not None and job not in jobs:
                jobs.append(job)

        campaigns.run(study, watcher=Watcher(lambda units: None, watch))
        return study.folder

    return go


def by_status(folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for record in read_trials(folder).records:
        found.setdefault(record.spec.method, set()).add(record.status)
    return found


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("raises", "error", "ZeroDivisionError: by zero"),
        ("writes", "error", "the frozen base model changed"),
        ("exits", "error", "sys.exit(3)"),
        ("refuses", "error", "a setting that does not fit"),
        ("meets", "error", "broken.yaml:methods.meets.adapter.rank: no room"),
        ("cancels", "error", "CancelledError"),
        ("fills", "oom", "can't allocate memory"),
        ("fillsthegpu", "oom", "CUDA out of memory"),
        ("hangs", "timeout", "no sign of life for 30 minutes"),
        ("hangson", "timeout", "no sign of life for 30 minutes"),
    ],
)
def test_the_others_of_its_pack_finish(run, name, status, message):
    folder = run(name)
    assert by_status(folder) == {"lora": {"ok"}, name: {status}, "stable_lora": {"ok"}}
    records = read_trials(folder).records
    assert len(records) == 6
    for record in records:
        if record.spec.method == name:
            assert message in record.failure.message
            assert record.failure.phase == "task 1/1: training" or status == "error"
    assert not list((folder / "running").iterdir())


def test_what_is_tried_again_is_what_failed(run):
    """The next run takes the failed trials alone, and the finished ones stay as they are."""
    jobs: list[str] = []
    folder = run("raises", jobs=jobs)
    packs = [name for name in jobs if name != "base"]  # whose scores may be in the cache
    assert len(packs) == 11, "six trials in halves: 6, 3 3, 1 2 1 2, 1 1 1 1 of which 4 have failed"
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "trials").glob("*.json")}
    jobs.clear()
    run("raises", jobs=jobs)
    assert len(jobs) == 2
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "trials").glob("*.json")}
    assert {name for name in before if before[name] != after[name]} == {
        f"{record.fingerprint}.json" for record in read_trials(folder).records if record.status == "error"
    }


def test_the_base_is_loaded_anew_after_a_method_wrote_to_it(run, tmp_path):
    """The good arms score as they do without the bad one."""
    found = {r.fingerprint: r.matrix() for r in read_trials(run("writes")).records if r.status == "ok"}
    (tmp_path / "out").rename(tmp_path / "spoilt")
    alone = {r.fingerprint: r.matrix() for r in read_trials(run()).records}
    assert found == alone


def test_a_record_names_the_line_that_raised(run):
    record = next(r for r in read_trials(run("raises")).records if r.status == "error")
    assert record.failure.phase == "task 1/1: training"
    place = record.failure.message.removesuffix(")").rpartition("(")[2]
    file, _, line = place.rpartition(":")
    assert Path(file) == Path(broken_methods.__file__)
    assert "raise ZeroDivisionError" in Path(file).read_text().splitlines()[int(line) - 1]
    assert "ZeroDivisionError" in record.failure.traceback


def test_whoever_changed_the_base_is_named(run):
    record = next(r for r in read_trials(run("writes")).records if r.status == "error")
    assert "(writes)" in record.failure.message
    assert "methods --check writes" in record.failure.message


def test_arms_that_train_once_are_told_apart(run):
    """Two trials of one training: the one whose average fails is the one that is recorded as failed."""
    jobs: list[str] = []
    folder = run("raises", jobs=jobs, methods={"lora": {}, "lora_ema": {}, "raises": {}}, seeds=[0])
    assert by_status(folder) == {"lora": {"ok"}, "lora_ema": {"ok"}, "raises": {"error"}}
    packs = {r.spec.method: r.host["pack"] for r in read_trials(folder).records}
    assert packs["lora"] == packs["lora_ema"]
    assert json.loads((folder / "study.json").read_text())["expected"] == {"lora": 1, "lora_ema": 1, "raises": 1}


def test_no_checkpoint_is_written_on_a_base_that_has_changed(run, monkeypatch):
    """Killed after it, a run would go on from it on a fresh base, and take void results for good."""
    from harness.running import boundary

    saved: list[str] = []
    save = boundary.save_checkpoint
    monkeypatch.setattr(boundary, "save_checkpoint", lambda path, *rest: (saved.append(path.stem), save(path, *rest)))
    folder = run("writes", streams={"two": ["toy_recall", "toy_digits"]}, seeds=[0])
    whole = {r.host["pack"] for r in read_trials(folder).records if r.status == "ok"}
    assert set(saved) == whole


def test_a_record_says_why_nothing_was_captured(tmp_path, monkeypatch, shared_cache):
    class Refused(Trunk):
        def __init__(self, model) -> None:
            super().__init__(model)
            self.failed = "RuntimeError: not while a stream is capturing"

    monkeypatch.setattr(rows, "Trunk", Refused)
    file = campaigns.write_study(tmp_path, STUDY, methods={"lora": {}})
    told = []
    campaign = campaigns.load(file, tmp_path / "out")
    campaigns.run(campaign, watcher=Watcher(lambda units: None, lambda job, units, what: told.append(what)))
    (record, other) = read_trials(tmp_path / "out").records
    assert record.host["eager"] == other.host["eager"] == "RuntimeError: not while a stream is capturing"
    assert record.host["joins_rows_of"] == LONGEST_IN_LINE
    assert "task 1/1: training (without graphs)" in told
