"""What `fetch` decomposes: what the run then reads, only where a CPU will need it, and once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import campaigns
import pytest
import torch
from places import ROOT

from harness.data import models as model_files
from harness.data.models import ModelSource
from harness.engine import spectra as module
from harness.errors import InputError
from harness.running import decompose
from harness.store import files as files_module
from harness.store import spectra as notes
from harness.store.results import read_trials
from harness.study.load import load_study

STUDY: dict[str, Any] = {
    "model": "tiny-random-llama", "dtype": "float32", "threads": 1, "seeds": [0], "streams": {"order": ["toy_recall"]},
    "methods": {"frozen": {}, "lora": {}}, "training": {"examples": 16, "batch": 8}, "scoring": {"items": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def model(shared_cache) -> ModelSource:
    """The tiny model where it stays: tests have caches of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(shared_cache))
        return model_files.resolve_model("tiny-random-llama")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Where decompositions go."""
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spectra"


@pytest.fixture
def decomposed(monkeypatch) -> list[int]:
    """One entry a decomposition of matrices of one shape: how many."""
    calls, original = [], module.spectrum
    monkeypatch.setattr(module, "spectrum", lambda weights: calls.append(len(weights)) or original(weights))
    return calls


@pytest.fixture
def fetch(tmp_path, model) -> Callable[..., list[str]]:
    """``fetch(dtype="bfloat16")``: the lines that preparing the study with these keys changed has said."""

    def call(source: ModelSource = model, **changes: Any) -> list[str]:
        lines: list[str] = []
        file = campaigns.write_study(tmp_path, STUDY, **changes)
        decompose.decompose(load_study(file), file, source, lines.append)
        return lines

    return call


def files(folder: Path, kind: str = "safetensors") -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(f"*.{kind}")}


# -- what a run finds -------------------------------------------------------------------------------------------------


def test_a_run_decomposes_nothing_after_it(fetch, folder, tmp_path, monkeypatch):
    fetch()
    before = files(folder)
    monkeypatch.setattr(module, "spectrum", lambda weights: pytest.fail("decomposed in the run"))
    found = campaigns.load(tmp_path / "mine.yaml", tmp_path / "out")
    state = campaigns.run(found)
    assert set(state.statuses.values()) == {"ok"}
    taken = {record.spec.method: record.intruders[0] for record in read_trials(found.folder).records}
    assert taken["lora"].matrices == 14
    assert files(folder) == before


def test_it_is_said_once_with_what_it_takes(fetch, folder):
    made, *_, ready = fetch()
    assert made == (
        "model tiny-random-llama: decomposing the base's 14 matrices, once a model: about 1 s, 1 MB on disk"
    )
    assert ready == f"model tiny-random-llama: decomposed for intruder dimensions in {folder}"
    assert fetch() == [ready]


def test_what_an_earlier_run_has_made_is_taken(fetch, folder, decomposed):
    fetch()
    for note in folder.glob("*.json"):
        note.unlink()
    decomposed.clear()
    assert len(fetch()) == 1
    assert not decomposed
    assert len(files(folder, "json")) == 1


# -- once -------------------------------------------------------------------------------------------------------------


def test_a_second_fetch_loads_nothing(fetch, folder, tmp_path):
    """The verb itself, in a process of its own: neither torch nor anything that loads models."""
    code = (
        "import sys; from harness import cli\n"
        f"sys.argv = ['lorabench', 'fetch', {str(tmp_path / 'mine.yaml')!r}]\n"
        "try: cli.main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print([name for name in ('torch', 'transformers', 'ray', 'lm_eval') if name in sys.modules])"
    )
    fetch()

    def verb() -> tuple[list[str], dict[str, int]]:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), files(folder) | files(folder, "json")

    first, before = verb()  # makes the model in this cache, with torch
    second, after = verb()
    assert first[-2] == second[-2] == f"model tiny-random-llama: decomposed for intruder dimensions in {folder}"
    assert second[-1] == "[]"
    assert after == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        lambda path: path.write_bytes(b"what is this"),
        lambda path: path.write_bytes(path.read_bytes().replace(path.stem.encode(), b"0" * 64)),
    ],
    ids=["gone", "cut off", "not its format", "of other weights"],
)
def test_a_file_that_is_not_whole_is_made_again(fetch, folder, decomposed, damage):
    fetch()
    (path,) = folder.glob("*.safetensors")
    whole = path.read_bytes()
    damage(path)
    decomposed.clear()
    assert "decomposing" in fetch()[-2]
    assert sum(decomposed) == 14
    assert path.read_bytes() == whole


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"file": 5}', '{"file": "nothing.safetensors"}', "\xff"])
def test_a_note_that_says_nothing_is_written_again(fetch, folder, decomposed, text):
    fetch()
    (note,) = folder.glob("*.json")
    said = note.read_text()
    note.write_bytes(text.encode("latin-1"))
    decomposed.clear()
    fetch()
    assert not decomposed, "the file is there"
    assert note.read_text() == said


# -- where it is needed -----------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("gpu")
def test_a_machine_with_a_gpu_leaves_it_to_the_run(fetch, folder):
    assert fetch(device="any") == []
    assert not folder.exists()
    assert len(fetch(device="cpu")) == 2, "but this study runs on the CPU there too"


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cuda"},
        {"scoring": {"items": 4, "intruders_after": "never"}},
        {"methods": {"frozen": {}}},
    ],
    ids=["for a GPU", "no intruders", "nothing is trained"],
)
def test_what_no_run_here_would_read_is_not_made(fetch, folder, changes):
    assert fetch(**changes) == []
    assert not folder.exists()


def test_without_intruders_only_starts_need_them(fetch, folder, decomposed):
    arms = {"lora": {}, "milora": {"adapter": {"targets": ["q_proj", "v_proj"]}}}
    (said,) = fetch(methods=arms, scoring={"items": 4, "intruders_after": "never"})[-1:]
    assert "decomposed for adapters' starts" in said
    assert sum(decomposed) == 4, "of two layers"


def test_another_dtype_and_other_weights_have_other_files(fetch, folder, model):
    fetch()
    fetch(dtype="bfloat16")
    assert len(files(folder)) == len(files(folder, "json")) == 2
    before = files(folder)
    assert len(fetch()) == len(fetch(dtype="bfloat16")) == 1
    fetch(ModelSource(model.name, model.path, "another digest"))
    assert files(folder) == before, "the weights are the same, whatever the folder's digest"
    assert len(files(folder, "json")) == 3


def test_every_choice_of_projections_is_decomposed(fetch, folder, decomposed):
    arms = {
        "frozen": {},
        "lora@qv": {"adapter": {"targets": ["q_proj", "v_proj"]}},
        "lora@vq": {"adapter": {"targets": ["v_proj", "q_proj"], "rank": 2}},
        "lora@o": {"adapter": {"targets": ["o_proj"]}},
    }
    fetch(methods=arms)
    assert sum(decomposed) == 4 + 2, "of two layers; the study's own seven projections are those of no arm that trains"
    assert len(files(folder)) == 2
    fetch(methods=arms | {"lora": {}})
    assert sum(decomposed) == 4 + 2 + 14


def test_other_methods_and_seeds_share_what_is_there(fetch, decomposed):
    fetch()
    decomposed.clear()
    assert len(fetch(seeds=[3], methods={"stable_lora": {"shrink": [0.001, 0.01]}, "pissa": {}})) == 1
    assert not decomposed


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["safetensors", "json"])
def test_a_full_disk_is_said_and_no_error(fetch, folder, monkeypatch, name):
    """`make bench` goes on: there may be nothing left to run."""
    original = files_module._sync

    def sync(path: Path) -> None:
        if f".{name}." in path.name:
            raise OSError(28, "No space left on device")
        original(path)

    with monkeypatch.context() as patch:
        patch.setattr(files_module, "_sync", sync)
        said = fetch()[-1]
    assert said.startswith(f"model tiny-random-llama: not decomposed, so the run has to: {folder}")
    assert "No space left on device" in said
    assert not files(folder, "json")
    assert not list(folder.glob(".*")), "no part of a file is left"
    assert said not in fetch()


def test_a_study_that_the_run_would_refuse_is_refused(fetch, folder):
    for methods, word in (
        ({"lora": {"adapter": {"targets": "q"}}}, "adapter.targets"),
        ({"lora": {"adapter": {"targets": ["q_prj"]}}}, "did you mean 'q_proj'"),
        ({"lora": {"learning_rat": 1.0}}, "did you mean 'learning_rate'"),
    ):
        with pytest.raises(InputError) as caught:
            fetch(methods=methods)
        assert word in str(caught.value)
    with pytest.raises(InputError, match="has no projection named fc_in"):
        fetch(adapter={"targets": ["fc_in"]})
    assert not folder.exists()


def test_notes_are_named_by_all_that_decides():
    plain = notes.Wanted("a", "float32", frozenset({"q_proj", "v_proj"}))
    assert plain.key == notes.Wanted("a", "float32", frozenset({"v_proj", "q_proj"})).key
    others = [
        notes.Wanted("b", "float32", plain.targets),
        notes.Wanted("a", "bfloat16", plain.targets),
        notes.Wanted("a", "float32", frozenset({"q_proj"})),
    ]
    assert len({plain.key, *(other.key for other in others)}) == 4


def test_another_way_to_decompose_has_other_names(monkeypatch):
    wanted = notes.Wanted("a", "float32", frozenset({"q_proj"}))
    before = wanted.key
    monkeypatch.setattr(notes, "VERSION", "another way")
    assert wanted.key != before
