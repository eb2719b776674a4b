"""Decompositions that are made beside a pack: the file that is made alone, nothing where it is stopped or fails."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from helpers import packed_model
from torch import Tensor

from harness.engine import spectra as module
from harness.engine.adapters.layout import Slot
from harness.engine.captures import capturing
from harness.engine.spectra import Spectra
from harness.engine.spectra_ahead import SpectraAhead
from harness.errors import FolderError

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs need a GPU")
SECONDS = 60  #: until a wait that should have ended is a failure


@dataclass
class Two:
    """Matrices of a shape, twice that of another."""

    device: torch.device
    each: int = 3

    @property
    def slots(self) -> tuple[Slot, ...]:
        shapes = {"up": (48, 32), "down": (32, 48), "q": (32, 32)}
        return tuple(Slot(f"{i}.{name}", *shape) for i in range(self.each) for name, shape in shapes.items())

    def weights(self):
        drawn = torch.Generator().manual_seed(0)
        for slot in self.slots:
            weight = torch.randn(slot.out_features, slot.in_features, generator=drawn).bfloat16()
            yield slot, weight.to(self.device)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def content(folder: Path) -> bytes:
    (path,) = folder.iterdir()
    return path.read_bytes()


def test_it_is_the_file_that_is_made_alone(tmp_path, one_thread):
    model, said = Two(torch.device("cpu")), []
    Spectra(model, tmp_path / "alone")
    ahead = SpectraAhead(model, tmp_path / "ahead")
    ahead.wait(said.append)
    assert content(tmp_path / "ahead") == content(tmp_path / "alone")
    assert said in ([], [module.announced(model)])
    said.clear()
    Spectra(model, tmp_path / "ahead", said.append)
    assert not said, "it is read"


@pytest.fixture
def slow(monkeypatch) -> tuple[threading.Event, threading.Event]:
    """(set once a matrix is at work, to be set before it is done)"""
    began, go = threading.Event(), threading.Event()
    svd = torch.linalg.svd

    def wait(matrix: Tensor, **settings: bool):
        began.set()
        assert go.wait(SECONDS)
        return svd(matrix, **settings)

    monkeypatch.setattr(torch.linalg, "svd", wait)
    return began, go


def test_who_asks_before_they_are_made_waits_and_says_so(tmp_path, slow):
    began, go = slow
    model, said = Two(torch.device("cpu")), []
    ahead = SpectraAhead(model, tmp_path)
    assert began.wait(SECONDS)
    ahead.wait(lambda text: (said.append(text), go.set()))
    assert said == [module.announced(model)]
    assert len(list(tmp_path.iterdir())) == 1


def test_of_what_is_stopped_nothing_is_left(tmp_path, slow):
    began, go = slow
    ahead = SpectraAhead(Two(torch.device("cpu")), tmp_path)
    assert began.wait(SECONDS)
    threading.Timer(0.05, go.set).start()
    ahead.stop()
    assert not list(tmp_path.iterdir())
    assert not [thread for thread in threading.enumerate() if thread.name == "spectra"]


def test_what_is_there_is_left_as_it_is(tmp_path, monkeypatch):
    model = packed_model()
    Spectra(model, tmp_path)
    before = content(tmp_path)
    made = []
    monkeypatch.setattr(module, "spectrum_on_host", lambda *given: made.append(given))
    SpectraAhead(model, tmp_path).wait(lambda text: None)
    assert content(tmp_path) == before
    assert not made


def test_what_fails_beside_is_raised_where_it_is_asked_for(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise FolderError("cannot write the file", where="x", remedy="free disk space")

    monkeypatch.setattr(module, "atomic_file", full)
    model = packed_model()
    SpectraAhead(model, tmp_path).wait(lambda text: None)
    with pytest.raises(FolderError):
        Spectra(model, tmp_path)


@GPU
def test_on_a_gpu_it_bears_captures_beside_it(tmp_path):
    model = Two(torch.device("cuda"), each=60)
    Spectra(model, tmp_path / "alone")
    numbers, stream, graphs = torch.zeros(4, device="cuda"), torch.cuda.Stream(), 0
    ahead = SpectraAhead(model, tmp_path / "ahead")
    while ahead._thread.is_alive():
        graph = torch.cuda.CUDAGraph()
        with capturing(), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            numbers += 1
        graph.replay()
        graphs += 1
    ahead.wait(lambda text: None)
    assert numbers.tolist() == [graphs] * 4
    assert content(tmp_path / "ahead") == content(tmp_path / "alone")
