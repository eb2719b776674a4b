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

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """``LORABENCH_CACHE`` of every run; the folder is shared with the other test folders."""
    return tmp_path_factory.getbasetemp() / "lorabench-cache"


@pytest.fixture(scope="session")
def lorabench(cache) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``lorabench("run", "smoke", ...)`` in a process of its own, which must end well."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "harness", *map(str, arguments)],
            capture_output=True, text=True, cwd=ROOT, timeout=280, check=False,
            env={**os.environ, "LORABENCH_CACHE": str(cache), "COLUMNS": "200"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return call


@pytest.fixture(scope="session")
def local_run(lorabench, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    lorabench("run", "smoke", "--executor", "local", "--out", folder)
    return folder


@pytest.fixture(scope="session")
def ray_run(lorabench, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    lorabench("run", "smoke", "--executor", "ray", "--out", folder)
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
