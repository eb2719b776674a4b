"""Whole runs of the smoke study, each made once a session, in a cache of the session's own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Command
from places import ROOT


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """``LORABENCH_CACHE`` of every run; the folder is shared with the other test folders."""
    return tmp_path_factory.getbasetemp() / "lorabench-cache"


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


@pytest.fixture(scope="session")
def records() -> Callable[[Path], dict[str, dict]]:
    """File name -> record, without what may differ between two runs of the same trial."""

    def read(folder: Path) -> dict[str, dict]:
        found = {}
        for path in sorted((folder / "trials").glob("*.json")):
            record = json.loads(path.read_text())
            found[path.name] = {key: value for key, value in record.items() if key not in ("costs", "host")}
        return found

    return read


@pytest.fixture(scope="session")
def state() -> Callable[[Path], dict[str, tuple[str, int]]]:
    """Relative path -> (sha256, mtime) of every file of a folder."""

    def look(folder: Path) -> dict[str, tuple[str, int]]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {
            str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            for path in files
        }

    return look
