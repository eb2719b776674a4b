"""Verbs that train nothing answer at once: they import nothing that takes seconds, and start no Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import harness

STUDY = {
    "model": "tiny-random-llama", "dtype": "float32", "threads": 1, "device": "any", "seeds": [0],
    "streams": {"one": ["toy_recall"]}, "methods": {"lora": {}, "stable_lora": {}, "frozen": {}},
    "training": {"examples": 16, "batch": 8}, "scoring": {"items": 4, "curve": [], "intruders_after": "never"},
}  # fmt: skip
#: What takes a second or more to import.
HEAVY = ("datasets", "lm_eval", "matplotlib", "pandas", "peft", "ray", "torch", "transformers")
CODE = """
import sys
from harness import cli
try:
    cli.main()
except SystemExit as stop:
    assert not stop.code, stop.code
print([name for name in {heavy} if name in sys.modules])
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a study's file, and its results with their report."""
    folder = tmp_path_factory.mktemp("quick")
    (folder / "mine.yaml").write_text(yaml.safe_dump(STUDY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(tmp_path_factory.getbasetemp() / "lorabench-cache"))
        patch.chdir(folder)
        harness.run_study("mine.yaml", quiet=True)
    return folder


@pytest.mark.parametrize(
    "words",
    ["methods", "tasks", "studies", "plan mine.yaml", "status mine.yaml", "run mine.yaml --executor ray"],
)
def test_a_verb_imports_nothing_that_takes_seconds(finished, tmp_path_factory, words):
    cache = str(tmp_path_factory.getbasetemp() / "lorabench-cache")
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(heavy=HEAVY), *words.split()],
        capture_output=True, text=True, cwd=finished, check=False, env=os.environ | {"LORABENCH_CACHE": cache},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    if words.startswith("run"):
        assert "nothing to do" in done.stdout
        answer, report = done.stdout.splitlines()[-3:-1]
        assert report.endswith("report.html, as it was")
        assert "nothing was tested" in answer or "No contestant is ranked" in answer or "average accuracy" in answer
