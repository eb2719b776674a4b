"""``lorabench perf intruders`` on a tiny shape: agreement is checked, all timed, the file says what was run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from harness.analysis.intruders import Measured
from harness.engine.adapters.layout import DenseLayout
from harness.errors import InputError, LorabenchError
from harness.perf import dense_intruders
from harness.perf import intruders as benchmark

TWO = benchmark.Settings(trials=2, ranks=(4, 8), repeats=1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(benchmark, "LARGE", 100)
    monkeypatch.setattr(benchmark, "use_threads", lambda threads: None)


def test_the_file_holds_what_was_measured(tmp_path):
    benchmark.main("random:tiny", TWO, tmp_path)
    found = json.loads((tmp_path / "intruders-cpu.json").read_text())
    assert [(row["matrices"], row["rank"]) for row in found["rows"]] == [
        ("tiny", 4), ("tiny", 8), ("n100", 4), ("n100", 8),
    ]  # fmt: skip
    assert {"cpu_tiny_vs_reference", "cpu_n100_vs_reference"} <= set(found["headline"])
    for row in found["rows"]:
        assert row["counts_compared"] == row["number"] == (14 if row["matrices"] == "tiny" else 2)
        assert row["intruders"] > 0
        assert (row["fallbacks"], row["undecided"]) == (0, 0)
        median = row["seconds_per_checkpoint"]
        assert row["times_faster"]["reference"] == pytest.approx(median["reference"] / median["engine"])
    dense = found["dense"]
    assert (dense["matrices"], dense["number"], dense["matrices_compared"]) == ("tiny", 14, 2)
    assert dense["intruders"] > 0
    assert dense["undecided"] == 0
    assert found["headline"]["dense_intruders_seconds"] == dense["seconds_per_checkpoint"] > 0


def test_a_count_that_is_wrong_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Measured, "count", lambda self, epsilon=0.5: (self.best < epsilon).sum(-1) + 1)
    with pytest.raises(LorabenchError, match="by a full SVD in fp64"):
        benchmark.main("random:tiny", TWO, tmp_path)


@pytest.mark.parametrize("name", ["best", "effective_rank", "relative_spectral_norm"])
def test_a_dense_change_that_is_measured_wrong_ends_it(tmp_path, monkeypatch, name):
    measure = benchmark.Spectra.measure

    def wrong(self, layout, values, scaling):
        found = measure(self, layout, values, scaling)
        return replace(found, **{name: getattr(found, name) * 0.9}) if isinstance(layout, DenseLayout) else found

    monkeypatch.setattr(benchmark.Spectra, "measure", wrong)
    with pytest.raises(LorabenchError, match="by full SVDs in fp64"):
        benchmark.main("random:tiny", TWO, tmp_path)


def test_dense_changes_have_the_norms_in_turn():
    contest = benchmark.Contest("large", benchmark._large(torch.device("cpu")))
    layout = DenseLayout(contest.base.slots)
    parts = layout.split(dense_intruders._changes(layout, contest.spectra, 3, torch.device("cpu")))
    for i, ((_, weight), part) in enumerate(zip(contest.base.weights(), parts, strict=True)):
        for k in range(3):
            ratio = torch.linalg.matrix_norm(part[k], 2) / torch.linalg.matrix_norm(weight.float(), 2)
            assert float(ratio) == pytest.approx(dense_intruders.SIZES[(i + k) % 4], rel=0.5)


def test_an_unknown_shape_is_refused(tmp_path):
    with pytest.raises(InputError, match="135M"):
        benchmark.main("random:135M", TWO, tmp_path)


def test_updates_have_the_norms_in_turn():
    contest = benchmark.Contest("large", benchmark._large(torch.device("cpu")))
    layout = benchmark.Layout(contest.base.slots, 4)
    pairs = layout.split(contest._updates(layout, 3))
    for i, ((_, weight), (a, b)) in enumerate(zip(contest.base.weights(), pairs, strict=True)):
        for k in range(3):
            ratio = torch.linalg.matrix_norm(b[k] @ a[k], 2) / torch.linalg.matrix_norm(weight.float(), 2)
            assert float(ratio) == pytest.approx(benchmark.SIZES[(i + k) % 4], rel=1e-4)
