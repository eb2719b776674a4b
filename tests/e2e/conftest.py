"""Whole runs of the smoke study, each made once a session, in a cache of the session's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Command
from filelock import FileLock
from places import ROOT


@pytest.fixture(scope="session")
def cache(shared_cache) -> Path:
    """``LORABENCH_CACHE`` of every run."""
    return shared_cache


@pytest.fixture(scope="session")
def lorabench(cache) -> Callable[..., str]:
    """What ``lorabench("run", "smoke", ...)`` says, in a process of its own, which must end well."""

    def call(*arguments: object) -> str:
        command = Command([str(word) for word in arguments], {"LORABENCH_CACHE": str(cache), "COLUMNS": "200"})
        assert command.finish() == 0, command.said
        return command.said

    return call


@pytest.fixture(scope="session")
def smoke_run(lorabench, tmp_path_factory) -> Path:
    """Made by the worker of xdist that needs it first, for all."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            made = tmp_path_factory.mktemp("made")
            lorabench("run", "smoke", "--executor", "local", "--out", made)
            made.replace(shared)
        else:
            lorabench("fetch", "smoke")  # into the cache of this worker
    return shared


@pytest.fixture(scope="module")
def local_run(smoke_run, tmp_path_factory) -> Path:
    """A copy for the tests of a file, which may add to it."""
    return shutil.copytree(smoke_run, tmp_path_factory.mktemp("local") / "out")  # with the times of the files


@pytest.fixture(scope="session")
def ray_run(cache, tmp_path_factory) -> Path:
    """In a process that starts from nothing, as a person's does: Ray's workers are told what to import."""
    folder = tmp_path_factory.mktemp("ray")
    words = [sys.executable, "-m", "harness", "run", "smoke", "--executor", "ray", "--out", str(folder)]
    environment = {**os.environ, "LORABENCH_CACHE": str(cache)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=280, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("[smoke] ") for line in lines), "nothing of Ray's, nor of a library's"
    assert lines[-1].startswith("[smoke] 100%  ETA 0:00  "), lines
    return folder
