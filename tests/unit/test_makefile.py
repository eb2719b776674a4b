"""What `make bench` runs, and that it tunes first where that counts; nothing is run here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from places import ROOT


def verbs(tmp_path: Path, gpu: bool, *words: str) -> list[str]:
    """The lorabench verbs that `make bench` would run, in order, on a machine with or without a GPU."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{'echo GPU 0: NVIDIA H100' if gpu else 'exit 9'}\n")
    tool.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["make", "-n", "bench", *words], cwd=ROOT, capture_output=True, text=True, check=True,
                          env=os.environ | {"PATH": path})  # fmt: skip
    return [" ".join(line.split()[1:3]) for line in done.stdout.splitlines() if line.startswith(".venv/bin/lorabench")]


@pytest.mark.parametrize(
    ("gpu", "words", "tunes"),
    [
        (True, [], True),
        (False, [], False),
        (True, ["STUDY=core"], True),
        (True, ["STUDY=smoke"], False),
        (True, ["TUNE=no"], False),
        (False, ["STUDY=quick", "TUNE=yes"], True),
    ],
)
def test_bench_tunes_the_study_that_counts(tmp_path, gpu, words, tunes):
    study = next((word.removeprefix("STUDY=") for word in words if word.startswith("STUDY=")), "auto")
    tune = [f"tune {study}"] if tunes else []
    assert verbs(tmp_path, gpu, *words) == [f"fetch {study}", *tune, f"run {study}"]
