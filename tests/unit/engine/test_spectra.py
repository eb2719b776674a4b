"""The cache of base decompositions, and the intruders of several adapters in one call."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers import packed_model
from safetensors.torch import load_file, save_file

from harness.engine import spectra as module
from harness.engine.adapters.layout import DenseLayout, Slot
from harness.engine.spectra import Spectra
from harness.running.ledger import Ledger, TrialSoFar
from harness.store.intruders import Intruders


@pytest.fixture(scope="module")
def model():
    return packed_model()


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """One entry a decomposition of a group of matrices."""
    calls, original = [], module.spectrum

    def counted(weights):
        calls.append(len(weights))
        return original(weights)

    monkeypatch.setattr(module, "spectrum", counted)
    return calls


def adapters(model, trials: int, size: float = 0.3):
    layout = model.layout(3)
    values = size * torch.randn(trials, layout.size, generator=torch.Generator().manual_seed(0))
    return layout, values, torch.linspace(1, 2, trials)


def test_a_model_is_decomposed_once(model, tmp_path, computed):
    first = Spectra(model, tmp_path)
    assert sum(computed) == len(model.slots)
    second = Spectra(model, tmp_path)
    assert sum(computed) == len(model.slots), "read from the file"
    for slot, weight in model.weights():
        for found in (first.of(slot), second.of(slot)):
            assert torch.allclose(found.weights()[0], weight.double(), atol=1e-12)


@pytest.mark.parametrize(
    ("device", "layers", "said"),
    [
        ("cpu", 30, "about 8 s, 0.6 GB on disk"),
        ("cpu", 400, "about 2 minutes, 7.8 GB on disk"),
        ("cuda", 30, "0.6 GB on disk"),
    ],
)
def test_what_it_takes_is_said_before(monkeypatch, device, layers, said):
    """Of matrices [1536, 576] and [576, 1536] in every layer."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    slots = [
        Slot(f"{i}.{name}", *shape)
        for i in range(layers)
        for name, shape in (("up", (1536, 576)), ("down", (576, 1536)))
    ]
    model = SimpleNamespace(slots=slots, device=torch.device(device))
    assert module._effort(model) == said


def test_a_file_of_other_weights_is_made_again_and_said(model, tmp_path, computed):
    Spectra(model, tmp_path)
    (path,) = tmp_path.iterdir()
    tensors = {name: tensor + 1 for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"weights": "another digest"})
    said: list[str] = []
    found = Spectra(model, tmp_path, said.append)
    assert said[0] == "the cached decompositions are of other weights; they are made again"
    assert sum(computed) == 2 * len(model.slots)
    slot, weight = next(model.weights())
    assert torch.allclose(found.of(slot).weights()[0], weight.double(), atol=1e-12)
    said.clear()
    Spectra(model, tmp_path, said.append)
    assert not said, "the file is good again"


def test_a_damaged_file_is_made_again_and_said(model, tmp_path, computed):
    Spectra(model, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    said: list[str] = []
    Spectra(model, tmp_path, said.append)
    assert "damaged" in said[0]


def test_other_weights_have_a_file_of_their_own(tmp_path, computed):
    for scale in (1.0, 1.5):
        model = packed_model()
        with torch.no_grad():
            next(model.weights())[1].mul_(scale)
        Spectra(model, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_several_adapters_in_one_call_are_each_by_itself(model, tmp_path):
    base, (layout, values, scaling) = Spectra(model, tmp_path), adapters(model, 3)
    together = [Intruders.of(found) for found in base.intruders(layout, values, scaling)]
    assert len({found.distance for found in together}) == 3
    for k, found in enumerate(together):
        (alone,) = base.intruders(layout, values[k : k + 1], scaling[k : k + 1])
        assert found.by_epsilon == alone["by_epsilon"]
        assert found.distance == pytest.approx(alone["distance"], rel=1e-9)
        assert found.matrices == len(model.slots)
        assert list(found.by_type.names) == list(dict.fromkeys(slot.projection for slot in model.slots))
        slot = model.slots[0]
        a, b = layout.split(values[k : k + 1])[0]
        delta = float(scaling[k] * (b[0].double() @ a[0].double()).norm())
        assert base.measure(layout, values, scaling).delta_norm[0, k] == pytest.approx(delta, rel=1e-6), slot.module


def test_dense_changes_are_those_of_full_svds(model, tmp_path):
    """Two trials whose matrices train themselves, scaled, the second beside one of low rank that says the same."""
    base, layout = Spectra(model, tmp_path), DenseLayout(model.slots)
    low, factors, scaling = adapters(model, 1)
    products = torch.cat([(b @ a).flatten(1) for a, b in low.split(factors)], dim=1)
    noise = 0.1 * torch.randn(1, layout.size, generator=torch.Generator().manual_seed(1))
    values, scaling = torch.cat([noise, products]), torch.tensor([0.5, float(scaling[0])])
    found = base.measure(layout, values, scaling)
    for i, ((_, weight), change) in enumerate(zip(model.weights(), layout.split(values), strict=True)):
        w0 = weight.detach().double()
        u0 = torch.linalg.svd(w0, full_matrices=False)[0]
        for trial in (0, 1):
            delta = scaling[trial].double() * change[trial].double()
            u = torch.linalg.svd(w0 + delta, full_matrices=False)[0]
            best = (u0.mT @ u[:, :10]).abs().amax(0)
            assert found.best[i, trial, : len(best)] == pytest.approx(best.numpy(), abs=1e-6)
            assert found.delta_norm[i, trial] == pytest.approx(float(delta.norm()), rel=1e-9)
    same = base.measure(low, factors, scaling[1:])
    for name in ("best", "relative_spectral_norm", "effective_rank"):
        assert getattr(found, name)[:, 1] == pytest.approx(getattr(same, name)[:, 0], rel=1e-4, abs=1e-6, nan_ok=True)
    assert (found.count(0.9) > 0).any()


def test_an_adapter_that_is_not_finite_has_no_summary(model, tmp_path):
    base, (layout, values, scaling) = Spectra(model, tmp_path), adapters(model, 3)
    wanted = base.intruders(layout, values, scaling)
    values[1, 7] = torch.nan
    found = base.intruders(layout, values, scaling)
    assert found[1] is None
    assert found[0]["by_epsilon"] == wanted[0]["by_epsilon"]
    assert found[2]["distance"] == pytest.approx(wanted[2]["distance"], rel=1e-9)


def test_modules_that_are_left_alone_do_not_count(model, tmp_path):
    base, (layout, values, scaling) = Spectra(model, tmp_path), adapters(model, 2)
    first = model.slots[0].module
    one, all_ = base.intruders(layout, values, scaling, [[first], [slot.module for slot in model.slots]])
    assert one["matrices"] == 1
    assert list(one["by_type"]) == [model.slots[0].projection]
    assert all_["matrices"] == len(model.slots)


def test_a_trial_without_a_summary_has_diverged():
    notes = TrialSoFar(scores={}, stderrs={}, correct={}, points=[], students=[], intruders=[None], tokens={})
    ledger = Ledger(notes={"trial": notes}, stages=1, row_of={"trial": 0}, batch=1)
    ledger.take_intruders("trial", 0, None)
    assert not ledger.alive("trial")
    assert ledger.notes["trial"].failure.phase == "counting intruder dimensions after task 1"
