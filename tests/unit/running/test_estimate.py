"""Packs run longest first, by what finished trials cost where there are any."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import campaigns
import numpy as np
import pytest
from campaigns import TOY

from harness.data.models import resolve_model
from harness.engine.batches import Example
from harness.errors import FolderError
from harness.executors.interface import Outcome, Watcher
from harness.executors.local import LocalExecutor
from harness.method import eigen
from harness.running import base as run_base
from harness.running import campaign as campaigns_run
from harness.running import estimate
from harness.running import job as job_module
from harness.running.estimate import forecast_left, pace_of
from harness.scoring.examples import TrainingExamples
from harness.store.results import read_base
from harness.store.spectra import Wanted, find
from harness.study import forecast
from harness.study.halving import halves
from harness.study.memory import adapted
from harness.study.stack import Device

GPU = Device("cuda", "a card", 80.0)
#: In this order the last pack is the longest.
METHODS = {"lora": {}, "dora": {}, "lora_ema_product": {}, "sdft": {}, "inflora": {}, "full_finetune": {}}
STUDY = TOY | {
    "methods": METHODS, "training": {"examples": 16, "batch": 8}, "scoring": {"items": 8, "curve": []},
}  # fmt: skip


def load(folder: Path, **changes) -> campaigns_run.Campaign:
    return campaigns.load(campaigns.write_study(folder, STUDY, **changes), folder / "out")


class Told(LocalExecutor):
    """An executor that scores the base, and of packs says what becomes of them."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.rounds: list[list[str]] = []

    def run(self, jobs, work, watch) -> list[Outcome]:
        if jobs[0].pack is None:
            return LocalExecutor().run(jobs, work, watch)
        self.rounds.append([job.name for job in jobs])
        return [Outcome(job.name, "oom" if job.name in self.failing else None) for job in jobs]


def test_packs_run_longest_first_and_keep_their_outcomes(tmp_path):
    found = load(tmp_path, seeds=[0, 1])
    packs = {pack.name: pack for pack in found.plan.packs}
    fails = found.plan.packs[1]
    executor = Told(fails.name, halves(fails)[1].name)
    campaigns.run(found, executor)
    first, second = executor.rounds
    assert sorted(first) == sorted(packs)
    base = read_base(found.folder, json.loads((found.folder / "base.json").read_text())["key"])
    assert base is not None
    pace = pace_of(found, {}, base, campaigns.CPU)
    seconds = [estimate.pack_seconds(found.study, base, pace, packs[name]) for name in first]
    assert seconds == sorted(seconds, reverse=True)
    assert first != list(packs)
    assert second == [half.name for half in halves(fails)], "of the pack that failed, and alike: in their order"


@pytest.fixture
def done(tmp_path) -> tuple[campaigns_run.Campaign, dict[str, float]]:
    """A campaign that has run, and the units that its jobs reported."""
    units: dict[str, float] = {}
    found = load(tmp_path)
    watcher = Watcher(lambda total: None, lambda job, done, what: units.update({job: done}))
    assert campaigns.run(found, watcher=watcher).complete
    return found, units


def test_a_forecast_rests_on_the_costs_of_finished_trials(tmp_path, done):
    found, units = done
    base = read_base(found.folder, json.loads((found.folder / "base.json").read_text())["key"])
    assert base is not None
    for pack in found.plan.packs:
        assert units[pack.name] == pytest.approx(forecast.pack_units(found.study, base, pack), rel=0.05), pack.trials[0]
    more = load(tmp_path, seeds=[0, 1])
    state = campaigns_run.read_state(more)
    records = len(more.plan.packs)
    assert forecast_left(more, state, campaigns.CPU).basis == f"from {records} records of this stack"
    pace = pace_of(more, state.statuses, base, campaigns.CPU)
    kinds = {kind for part, kind in pace.known if part == "train"}
    assert kinds == {"low-rank", "scaled", "dense", "sampling"}
    assert all(seconds > 0 for seconds in pace.known.values())

    for path in (found.folder / "trials").glob("*.json"):  # as if another torch had written them
        record = json.loads(path.read_text())
        record["stack"]["torch"] = "0.1"
        path.write_text(json.dumps(record))
    assert forecast_left(more, campaigns_run.read_state(more), campaigns.CPU).basis == "from the base model's speed"


def test_a_forecast_says_that_it_rests_on_constants(tmp_path):
    found = load(tmp_path)
    left = forecast_left(found, campaigns_run.read_state(found), campaigns.CPU)
    assert left.basis == "from constants"
    assert left.seconds > 0


def test_a_guess_of_tokens_knows_how_long_texts_may_be(tmp_path, monkeypatch):
    rows = {"train": [{"q": "x" * 400}] * 8, "test": [{"q": "x" * 100}, {"q": "x" * 8000}]}
    monkeypatch.setattr(estimate, "read_split", lambda prepared, split: rows[split])
    found = load(tmp_path, training={"examples": 8, "max_length": 64}, scoring={"max_length": 512})
    guess = estimate._guessed_base(found)
    assert set(guess.train_tokens.values()) == {64.0}, "of the rows that are trained on"
    assert {score.tokens for score in guess.scores.values()} == {27 + 512}


@pytest.mark.parametrize(("method", "seconds"), [("lora", 14.0), ("combined", 19.0)])
def test_a_gpu_is_as_fast_as_was_measured(tmp_path, method, seconds):
    """The first forecast of packs of three tasks of 12 steps, as `quick` has them, and what those took."""
    found = load(tmp_path, methods={method: {}}, training={"examples": 48, "batch": 4})
    base = estimate._guessed_base(found)
    (pack,) = found.plan.packs
    counts = replace(forecast.pack_counts(found.study, pack), tasks=3, steps=36)
    pace = pace_of(found, {}, base, GPU)
    assert pace.seconds(forecast.pack_work(found.study, base, pack), counts) == pytest.approx(seconds, rel=0.15)


def test_a_first_forecast_counts_decomposing_the_base(tmp_path, monkeypatch):
    found = load(tmp_path, methods={"lora": {}, "milora": {}}, scoring={"intruders_after": "never"})

    def seconds() -> float:
        return forecast_left(found, campaigns_run.read_state(found), campaigns.CPU).seconds

    monkeypatch.setattr(estimate, "find", lambda cache, wanted: None)
    absent = seconds()
    monkeypatch.setattr(estimate, "find", lambda cache, wanted: cache)
    shapes = adapted(found.model.path, found.study.adapter.targets).values()
    whole = sum(m * n * min(m, n) for m, n in shapes)
    assert absent - seconds() == pytest.approx(estimate.SVD_SECONDS["cpu"] * whole / found.study.threads)


def test_what_a_run_has_decomposed_is_not_counted_again(tmp_path, monkeypatch):
    monkeypatch.setenv("LORABENCH_CACHE", str(cache := tmp_path / "cache"))
    source = resolve_model("tiny-random-llama")
    changes: dict[str, Any] = {
        "methods": {"lora": {}}, "training": {"examples": 8, "batch": 8}, "streams": {"order": ["toy_recall"]},
        "scoring": {"items": 4, "curve": []},
    }  # fmt: skip

    def svd_seconds(**more: Any) -> float:
        found = load(tmp_path, **changes | more)
        return estimate._svd_seconds(found, campaigns_run.read_state(found), campaigns.CPU, of_this_stack=True)

    other = {"seeds": [5]}
    assert svd_seconds(**other) > 0
    assert campaigns.run(load(tmp_path, **changes)).complete
    wanted = Wanted(source.digest, "float32", frozenset(load(tmp_path).study.adapter.targets))
    assert find(cache / "spectra", wanted), "the run has noted which file it is"
    assert svd_seconds(**other) == 0
    both = {"lora": {}, "dora": {"adapter": {"targets": ["q_proj"]}}}
    assert svd_seconds(methods=both) > 0, "of other projections nothing is there"
    shutil.rmtree(cache / "spectra")
    assert svd_seconds(seeds=[0, 5]) == 0, "a trial of this stack has finished, on a node with another cache"
    assert svd_seconds(seeds=[5]) > 0


def test_a_cache_that_may_only_be_read_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(
        job_module, "Spectra", lambda model, folder, say: SimpleNamespace(path=folder / "a.safetensors")
    )

    def refuse(*args: object) -> None:
        raise FolderError("it is read-only", where="cache", remedy="none")

    monkeypatch.setattr(job_module, "write_note", refuse)
    wanted = Wanted("model", "float32", frozenset())
    loaded = job_module.Loaded(SimpleNamespace(model=None), tmp_path, wanted)  # type: ignore[arg-type]
    assert loaded.spectra(print).path.name == "a.safetensors"


def test_a_forecast_counts_what_starts_decompose(tmp_path):
    found = load(tmp_path, methods={"lora_null": {"text": "toy_text", "text_tokens": 300}})
    base = estimate._guessed_base(found)
    pace = pace_of(found, {}, base, campaigns.CPU)
    (pack,) = found.plan.packs
    widths = {(name.rsplit(".", 1)[0], n) for name, (_, n) in adapted(found.model.path, pack.adapter.targets).items()}
    units = forecast.pack_work(found.study, base, pack)["decompose", "low-rank"]
    products = eigen.FEW * sum(n**3 for _, n in widths)
    assert pace.guessed["decompose"] * units == pytest.approx(5e-11 * products / found.study.threads)


def test_the_length_of_examples_is_that_of_a_sorted_file(tmp_path):
    """Of 4,000 rows by length, 10 tokens to 29: the first 250 have 10 or 11."""
    examples = TrainingExamples(4000, lambda i: Example(np.zeros(10 + i // 200, np.int64), 1), lambda numbers: None)
    bench: Any = SimpleNamespace(training_examples=lambda name: examples)
    job: Any = SimpleNamespace(study=load(tmp_path, training={"examples": 8, "max_length": 64}).study)
    assert run_base._mean_length(bench, "sorted", job) == pytest.approx(19.5, rel=0.05)
    examples = TrainingExamples(20, lambda i: Example(np.zeros(10, np.int64), 1), lambda numbers: None)
    assert run_base._mean_length(bench, "short", job) == 10
