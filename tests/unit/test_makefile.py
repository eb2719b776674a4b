"""What `make bench` and `make perf` run, and that the first tunes where that counts; nothing is run here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from places import ROOT


def lines(tmp_path: Path, gpu: bool, *words: str, clone: Path = ROOT) -> list[str]:
    """What `make` would give to lorabench, in order, on a machine with or without a GPU."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{'echo GPU 0: NVIDIA H100' if gpu else 'exit 9'}\n")
    tool.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["make", "-n", *words], cwd=clone, capture_output=True, text=True, check=True,
                          env=os.environ | {"PATH": path})  # fmt: skip
    return [" ".join(line.split()[1:]) for line in done.stdout.splitlines() if line.startswith(".venv/bin/lorabench")]


def verbs(tmp_path: Path, gpu: bool, *words: str) -> list[str]:
    """The lorabench verbs that `make bench` would run, with what they are for."""
    return [" ".join(line.split()[:2]) for line in lines(tmp_path, gpu, "bench", *words)]


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


@pytest.mark.parametrize(
    ("words", "there", "tune"),
    [
        ([], "", ["tune auto --shipped"]),
        (["STUDY=core"], "", ["tune core --shipped"]),
        (["TUNE=1"], "", ["tune auto --executor ray"]),
        (["TUNE=no"], "", []),
        (["MODEL=another"], "", ["tune auto --model another --executor ray"]),
        ([], "tuning.json", []),
    ],
)
def test_settings_that_ship_are_taken_and_not_searched(tmp_path, words, there, tune):
    clone, chosen = tmp_path / "clone", tmp_path / "clone" / "results" / "core"
    (clone / "tasks" / "studies" / "tuned").mkdir(parents=True)
    (clone / "tasks" / "studies" / "tuned" / "core.json").touch()
    chosen.mkdir(parents=True)
    (chosen / there).touch()
    for file in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt"):
        (clone / file).write_bytes((ROOT / file).read_bytes())
    verbs = [line for line in lines(tmp_path, True, "bench", *words, clone=clone) if line.startswith("tune")]
    assert verbs == tune


BENCHMARKS = ["train", "score", "intruders", "methods", "campaign", "verbs", "records", "jobs"]


@pytest.mark.parametrize(
    ("gpu", "words", "small"),
    [(True, [], False), (False, [], True), (True, ["PERF=small"], True), (False, ["LORABENCH_PERF=full"], False)],
)
def test_perf_runs_all_benchmarks_in_one_edition(tmp_path, gpu, words, small):
    fetch, *runs = lines(tmp_path, gpu, "perf", *words)
    assert fetch == ("fetch smoke" if small else "fetch core")
    assert [run.split()[:2] for run in runs] == [["perf", name] for name in BENCHMARKS]
    assert all(("--out results/perf/small" in run) == small for run in runs), "or it would replace committed files"
    assert [name for name, run in zip(BENCHMARKS, runs, strict=True) if "--small" in run] == (
        ["train", "score", "methods", "campaign", "jobs"] if small else []
    )
