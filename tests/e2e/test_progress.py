"""A run that one looks at from another shell: what it says of itself, and that a killed one says nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import campaigns
import psutil
import pytest
import rays
from commands import Command
from places import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STUDY = campaigns.TOY | {
    "methods": {"lora": {}, "stable_lora": {}, "self_distill": {}}, "seeds": [0, 1], "pack": 2,
    "training": {"examples": 512, "batch": 8}, "scoring": {"items": 32, "curve": [16, 64]},
}  # fmt: skip


class Shell:
    """Commands on one study, each in a process of its own, without a terminal.

    Runs that others look at start as a person's do, the others are forked from a process that has imported all.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.file, self.out = campaigns.write_study(folder, STUDY), folder / "out"
        self._environment = {"LORABENCH_CACHE": str(cache), "PYTHONPATH": str(ROOT), "COLUMNS": "150"}

    def _on_the_study(self, *words: str) -> list[str]:
        return [words[0], str(self.file), "--out", str(self.out), *words[1:]]

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "harness", *self._on_the_study(*words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=os.environ | self._environment, cwd=self.out.parent, **pipes)

    def ask(self, *words: str) -> str:
        asked = Command(self._on_the_study(*words), self._environment, self.out.parent)
        assert asked.finish() == 0, asked.said
        return asked.said

    @property
    def running(self) -> dict[str, Any] | None:
        return json.loads(self.ask("status", "--json"))["running"]

    def standing(self) -> dict[str, Any]:
        """What the run has written last; empty where there is nothing."""
        try:
            return json.loads((self.out / "running" / "standing.json").read_text())
        except (OSError, ValueError):
            return {}

    def wait_for(self, run: subprocess.Popen[str], done: int) -> None:
        """Until so many packs are done, and another is in its stream."""

        def there() -> bool:
            assert run.poll() is None, run.communicate()
            now = self.standing()
            return now.get("done", 0) >= done and any(job["position"] for job in now["jobs"])

        rays.wait_until(there, 240)


@pytest.fixture
def shell(tmp_path, shared_cache) -> Shell:
    return Shell(tmp_path, shared_cache)


@contextmanager
def standing_still(run: subprocess.Popen[str], executor: str) -> Iterator[None]:
    """The packs at work don't go on meanwhile."""
    workers = [psutil.Process(run.pid)]
    if executor == "ray":
        workers = [process for process in rays.children(run.pid) if "ray::" in rays.words(process)]
    assert workers
    for process in workers:
        process.suspend()
    try:
        yield
    finally:
        for process in rays.living(workers):
            process.resume()


def seen_from_another_shell(shell: Shell, run: subprocess.Popen[str], executor: str) -> None:
    """What ``status`` and ``report --partial`` say of a run at work."""
    shell.wait_for(run, done=1)
    with standing_still(run, executor):
        now = shell.running
        assert now is not None
        assert (now["study"], now["packs"]) == ("mine", 3)
        assert 1 <= now["done"] <= 2
        assert {job["number"] for job in now["jobs"]} <= {1, 2, 3}
        shown = shell.ask("status")
        assert "of 3 packs done" in shown
        assert re.search(r"^[123]/3 +2 +[12]/2 +(training|scoring|intruder)", shown, re.MULTILINE), shown
        shell.ask("report", "--partial")
        assert "Partial: " in (shell.out / "report.md").read_text()


def its_lines(err: str) -> list[str]:
    """What a run says without a terminal: its own lines, nothing of Ray's, nor of a library's."""
    lines = err.splitlines()
    assert all(line.startswith("[mine] ") for line in lines), err
    assert any("pack " in line and "/3  2 trials  position " in line for line in lines)
    return lines


def test_another_shell_sees_the_packs_at_work(shell):
    run = shell.start("run", "--executor", "local", "--no-report")
    try:
        seen_from_another_shell(shell, run, "local")
    finally:
        out, err = run.communicate()
    assert run.returncode == 0, err
    assert "all 6 trials are done (6 ok)" in out
    assert its_lines(err)[-1] == "[mine] 100%  ETA 0:00  3 of 3 packs done"
    assert shell.running is None
    assert not list((shell.out / "running").iterdir())
    check_logs(shell.out, 3)


def check_logs(out: Path, packs: int) -> None:
    logs = sorted((out / "logs").glob("pack-*.log"))
    assert [path.name.rpartition("-")[0] for path in logs] == [f"pack-{number + 1:04}" for number in range(packs)]
    assert all(path.read_text().endswith("ended: done\n") for path in logs)


def test_a_killed_run_is_seen_no_more_and_goes_on(shell):
    """One under Ray, which another shell has seen until then."""
    run = shell.start("run", "--executor", "ray", "--no-report")
    try:
        seen_from_another_shell(shell, run, "ray")
        below = rays.children(run.pid)
    finally:
        run.send_signal(signal.SIGKILL)
        _, err = run.communicate()
    its_lines(err)
    rays.wait_for_end(below)
    assert shell.standing(), "left by the dead"
    assert shell.running is None
    assert "packs done" not in shell.ask("status")
    assert "all 6 trials are done (6 ok)" in shell.ask("run", "--executor", "local")
    assert not list((shell.out / "running").iterdir())
    assert "Partial" not in (shell.out / "report.md").read_text()
