"""Shared by all tests.  Its place also puts ``tests`` on the path, so that ``import helpers`` works everywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    """A cache of models and tasks that the tests of a process fill once; never the person's."""
    return tmp_path_factory.getbasetemp() / "lorabench-cache"


@pytest.fixture
def in_shared_cache(shared_cache, monkeypatch) -> Path:
    """Sets the environment so that this test uses the shared cache."""
    monkeypatch.setenv("LORABENCH_CACHE", str(shared_cache))
    return shared_cache


@pytest.fixture
def in_process(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """``in_process("plan", "x")``: the command in this process -> (status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        from harness import cli

        monkeypatch.setattr(sys, "argv", ["lorabench", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        said = capsys.readouterr()
        return status, said.out, said.err

    return call
