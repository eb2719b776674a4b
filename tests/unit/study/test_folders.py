"""Where the results of a study go."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError
from harness.study import folders


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("tiny-random-llama", "tiny-random-llama"),
        ("HuggingFaceTB/SmolLM2-135M", "huggingfacetb-smollm2-135m"),
        ("a b/../c", "a-b-..-c"),
        ("-", "model"),
        ("x" * 80, "x" * 64),
    ],
)
def test_model_label(model, label, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folders.model_label(model) == label


def test_a_label_is_ascii(tmp_path):
    (tmp_path / "modèle").mkdir()
    assert folders.model_label(str(tmp_path / "modèle")) == "mod-le"


def test_a_folders_label_is_its_name(tmp_path):
    (tmp_path / "My Model").mkdir()
    assert folders.model_label(str(tmp_path / "My Model")) == "my-model"


def test_results_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folders.results_folder("smoke", None, None) == tmp_path / "results" / "smoke"
    assert folders.results_folder("smoke", "org/M", None) == tmp_path / "results" / "smoke@org-m"
    assert folders.results_folder("smoke", "org/M", Path("here")) == tmp_path / "here"
    for name in ("reference", "perf"):
        with pytest.raises(InputError, match="reserved"):
            folders.results_folder(name, None, None)
