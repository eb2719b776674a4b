"""``lorabench mitigate`` without a model: what it says, what it refuses, and the numbers of its figure."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import pytest
import torch
from helpers import packed_model

from harness.engine.adapters.files import save_adapters
from harness.engine.adapters.layout import Layout
from harness.engine.spectra import Spectra
from harness.errors import InputError
from harness.posthoc import mitigation
from harness.report import write_mitigation
from harness.report.mitigation import changes
from harness.run import campaign
from harness.study.config import AdapterSettings

TRIALS = [SimpleNamespace(fingerprint=f"{n}abc") for n in range(3)]


@pytest.fixture
def lorabench(in_process, monkeypatch, tmp_path):
    """``lorabench(rows, ...)``: the exit status and what is printed, where ``rows`` are what was found."""

    def call(rows: list[dict], *arguments: str) -> tuple[int, str, str]:
        found = SimpleNamespace(
            folder=tmp_path, study=SimpleNamespace(name="smoke", device="cpu"),
            plan=SimpleNamespace(fingerprints=()), model=SimpleNamespace(path=tmp_path),
        )  # fmt: skip
        monkeypatch.setattr(campaign, "load_campaign", lambda *_, **__: found)
        monkeypatch.setattr(mitigation, "find_trials", lambda *_: TRIALS)
        monkeypatch.setattr(mitigation, "read_adapters", lambda *_: ([(trial, None) for trial in TRIALS], []))
        monkeypatch.setattr(mitigation, "mitigate", lambda *_: rows)
        return in_process("mitigate", *arguments)

    return call


def row(arm: str, seed: int, kind: str, keep: float, forgetting: float, last: float) -> dict:
    return {
        "trial": f"{arm}{seed}", "arm": arm, "order": "a", "seed": seed, "kind": kind, "keep": keep,
        "forgetting": forgetting, "last_task_accuracy": last, "general_delta": None, "score_x": last,
    }  # fmt: skip


ROWS = [
    row("lora", seed, kind, keep, 0.2 - gain * (seed + 1), 0.8 - 0.01 * (1 - keep))
    for seed in range(3)
    for kind, keep, gain in (("trained", 1.0, 0.0), ("mitigated", 0.5, 0.04), ("control", 0.5, 0.01))
]


def test_without_intruders_it_says_so_and_is_done(lorabench, tmp_path):
    status, out, _ = lorabench([], "smoke")
    assert status == 0
    assert "no intruder dimensions in 3 trial(s): nothing to mitigate" in out
    assert not (tmp_path / "mitigation").exists()


def test_it_says_where_the_results_are(lorabench, tmp_path):
    status, out, _ = lorabench(ROWS, "smoke")
    assert status == 0
    assert f"3 of 3 trial(s) have intruder dimensions; results: {tmp_path / 'mitigation'}" in out
    with (tmp_path / "mitigation" / "scores.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 9
    assert float(found[1]["score_x"]) == pytest.approx(0.795)


@pytest.mark.parametrize("keep", ["", "half", "1", "-0.5", "0.5,2", "nan"])
def test_a_part_that_is_none_is_refused(lorabench, keep):
    status, _, err = lorabench(ROWS, "smoke", "--keep", keep)
    assert status == 2
    assert "--keep" in err


def test_changes_are_against_the_same_trial_as_trained():
    found = {(p["kind"], p["quantity"]): p for p in changes(ROWS)}
    assert found["mitigated", "forgetting recovered"]["mean"] == pytest.approx(0.08)
    assert found["control", "forgetting recovered"]["mean"] == pytest.approx(0.02)
    assert found["mitigated", "accuracy lost"]["mean"] == pytest.approx(0.005)
    assert found["mitigated", "forgetting recovered"]["trials"] == 3
    assert not any("general" in quantity for _, quantity in found), "no probe was scored"


def test_a_variant_that_diverged_is_left_out(tmp_path):
    broken = [
        {k: v for k, v in r.items() if k not in ("forgetting", "last_task_accuracy")}
        if r["kind"] == "mitigated" else r for r in ROWS
    ]  # fmt: skip
    assert {p["kind"] for p in changes(broken)} == {"control"}
    columns = ("trial", "arm", "order", "seed", "kind", "keep", "forgetting", "last_task_accuracy", "general_delta")
    written = write_mitigation(broken, columns, tmp_path)
    assert all(path.stat().st_size for path in written)


@pytest.fixture
def run(tmp_path):
    """A run on a tiny model with an adapter of rank 2 that plants large directions, but for its first matrix."""
    model = packed_model()
    layout = model.layout(3)
    values = torch.randn(1, layout.size, generator=torch.Generator().manual_seed(1))
    for a, b in layout.split(values):
        a[0, -1], b[0, :, -1] = 0, 0
    layout.split(values)[0][1].zero_()
    found = object.__new__(mitigation._Run)
    found.model, found.layout, found.spectra = model, layout, Spectra(model, tmp_path)
    found._laid_out = lambda stored: values[0]
    return found


def test_only_the_first_intruder_of_each_matrix_is_scaled(run):
    trained, mitigated, control = run.variants(None, [0.25])
    assert [v.kind for v in (trained, mitigated, control)] == ["trained", "mitigated", "control"]
    pairs = [run.layout.split(variant.values[None].double()) for variant in (trained, mitigated, control)]
    touched, norms = 0, [0.0, 0.0]
    for (_, weight), *factors in zip(run.model.weights(), *pairs, strict=True):
        before, after, shrunk = (b[0] @ a[0] for a, b in factors)
        norms = [norms[0] + float(after.norm() ** 2), norms[1] + float(shrunk.norm() ** 2)]
        assert torch.allclose(shrunk, control.shrunk_by * before, rtol=1e-5, atol=1e-6)
        u0 = torch.linalg.svd(weight.double(), full_matrices=False)[0]
        u, d, vh = torch.linalg.svd(weight.double() + before, full_matrices=False)
        best = (u0.mT @ u[:, :10]).abs().amax(0)
        wanted = weight.double() + before
        if bool((best < 0.5).any()):
            j, touched = int((best < 0.5).int().argmax()), touched + 1
            wanted = wanted - 0.75 * d[j] * torch.outer(u[:, j], vh[j])
        assert torch.allclose(weight.double() + after, wanted, atol=1e-4)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5), "the control is as large"
    assert mitigated.matrices == control.matrices == touched
    assert 0 < touched < len(run.model.slots)


def test_an_adapter_without_intruders_has_no_variants(run):
    run._laid_out = lambda stored: torch.zeros(run.layout.size)
    assert run.variants(None, [0.0, 0.5]) == []


def kept(folder, fingerprint, model, rank, scaling, vectors=()):
    """An adapter of random values as a pack keeps it; its values."""
    layout = Layout(model.slots, rank, vectors)
    values = torch.randn(layout.size, generator=torch.Generator().manual_seed(rank))
    path = folder / "adapters" / f"{fingerprint}.safetensors"
    save_adapters(path, layout, [(fingerprint, values)], "tiny", AdapterSettings(), [scaling])
    return values


def test_adapters_of_any_rank_are_laid_out_as_they_were_scored(tmp_path):
    """Stacked adapters have more ranks than the study says, rsLoRA another scaling."""
    model = packed_model()
    values = {"0abc": kept(tmp_path, "0abc", model, 2, 0.5), "1abc": kept(tmp_path, "1abc", model, 5, 3.0)}
    adapters, left_out = mitigation.read_adapters(tmp_path, TRIALS[:2])
    assert left_out == []
    run = object.__new__(mitigation._Run)
    run.model, run.layout = model, model.layout(6)
    for trial, stored in adapters:
        own = model.layout(stored.rank).split(values[trial.fingerprint][None])
        for (a, b), (wanted_a, wanted_b) in zip(run.layout.split(run._laid_out(stored)[None]), own, strict=True):
            assert torch.allclose(b @ a, stored.scaling * wanted_b @ wanted_a, atol=1e-4)


def test_trials_without_low_rank_are_left_out_and_alone_refused(tmp_path):
    kept(tmp_path, "0abc", packed_model(), 2, 0.5)
    kept(tmp_path, "1abc", packed_model(), 2, 0.5, vectors=("magnitude",))
    adapters, left_out = mitigation.read_adapters(tmp_path, TRIALS)
    assert [trial.fingerprint for trial, _ in adapters] == ["0abc"]
    assert len(left_out) == 2
    assert "1abc scales rows of the base" in left_out[0]
    assert "no adapter of trial 2abc was kept" in left_out[1]
    with pytest.raises(InputError, match="scales rows"):
        mitigation.read_adapters(tmp_path, TRIALS[1:2])
