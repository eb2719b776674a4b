"""Whole runs of the smoke study, each made once a session, in a cache of the session's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Command
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
def local_run(lorabench, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    lorabench("run", "smoke", "--executor", "local", "--out", folder)
    return folder


@pytest.fixture(scope="session")
def ray_run(cache, tmp_path_factory) -> Path:
    """In a process that starts from nothing, as a person's does: Ray's workers are told what to import."""
    folder = tmp_path_factory.mktemp("ray")
    words = [sys.executable, "-m", "harness", "run", "smoke", "--executor", "ray", "--out", str(folder)]
    environment = {**os.environ, "LORABENCH_CACHE": str(cache)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=280, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
