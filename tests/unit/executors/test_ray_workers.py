"""A worker that dies, hangs or leaves: what is recorded of it, and that the others of its run finish."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import rays
from commands import Command
from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

from harness.executors.ray import flight
from harness.executors.ray.flight import Running
from harness.executors.ray.task import Signs, read_progress
from harness.store.results import read_trials

#: A method that does something to the process of its worker in its second step.
METHOD = """
import os
import signal
import sys
import time
from dataclasses import dataclass

from harness.method import BoundUpdate, Method, MethodSettings, Recipe, UpdateRule


def act(name):
    if name == "exits":
        sys.exit(3)
    if name == "hangs":
        time.sleep(10_000)
    os.kill(os.getpid(), {"crashes": signal.SIGSEGV, "killed": signal.SIGKILL}[name])


@dataclass(frozen=True)
class Rule(UpdateRule):
    @classmethod
    def bind(cls, rules, bank):
        return Bound()


class Bound(BoundUpdate):
    steps = 0

    def before_step(self, bank, active):
        self.steps += 1
        if self.steps == 2:
            act(NAME)


NAME = "NAMED"
METHOD = Method(
    name=NAME, summary=NAME, source="here", settings=MethodSettings, compose=lambda settings: Recipe(updates=(Rule(),))
)
"""

STUDY = """
model: tiny-random-llama
dtype: float32
threads: 1
device: cpu
pack: 1
stall_minutes: 0.6
seeds: [0]
streams:
  one: [toy_recall]
methods: {methods}
training: {{examples: 32, batch: 8}}
scoring: {{items: 8, curve: []}}
"""


def command(tmp_path: Path, cache: Path, folder: Path, *names: str, **environment: str) -> Command:
    """``lorabench run`` of a study with an arm for each of these methods."""
    methods = tmp_path / "plugins" / "methods"
    methods.mkdir(parents=True)
    for name in set(names) - {"lora", "stable_lora"}:
        (methods / f"{name}.py").write_text(METHOD.replace("NAMED", name))
    file = tmp_path / "deaths.yaml"
    file.write_text(STUDY.format(methods="{" + ", ".join(f"{name}: {{}}" for name in names) + "}"))
    words = ["--plugins", str(methods.parent), "run", str(file), "--no-report", f"--out={tmp_path / 'out'}"]
    given = {"RAY_TMPDIR": str(folder), "LORABENCH_CACHE": str(cache / "lorabench-cache"), "COLUMNS": "200"}
    return Command(words, given | environment)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_death_is_told_apart_and_takes_no_other_with_it(tmp_path, tmp_path_factory):
    names = ("hangs", "crashes", "exits", "killed", "lora", "stable_lora")
    with rays.short_folder() as folder:
        run = command(tmp_path, tmp_path_factory.getbasetemp(), folder, *names)
        try:
            assert run.finish(500) == 1, run.said
        finally:
            rays.end(run.pid)
    records = {record.spec.method: record for record in read_trials(tmp_path / "out").records}
    assert {name: record.status for name, record in records.items()} == {
        "hangs": "timeout", "crashes": "error", "exits": "error", "killed": "error", "lora": "ok", "stable_lora": "ok",
    }  # fmt: skip
    failures = {name: record.failure for name, record in records.items() if record.failure}
    assert {failure.phase for failure in failures.values()} == {"task 1/1: training"}
    assert "no sign of life for 0.6 minutes" in failures["hangs"].message
    assert "the worker crashed, twice: Segmentation fault" in failures["crashes"].message
    assert "crashes.py" in failures["crashes"].traceback, "the line where it happened"
    assert "sys.exit(3)" in failures["exits"].message
    assert "exits.py" in failures["exits"].traceback
    assert "was killed, twice (SIGKILL" in failures["killed"].message
    assert not list((tmp_path / "out" / "running").iterdir())
    for noise in rays.NOISE:
        assert noise not in run.said, run.said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rays_memory_monitor_is_told_apart(tmp_path, tmp_path_factory):
    """It ends every worker on a machine that is said to be full; the first is that of the base model."""
    shutil.rmtree(tmp_path_factory.getbasetemp() / "lorabench-cache" / "bases", ignore_errors=True)  # of other tests
    with rays.short_folder() as folder:
        full = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
        run = command(tmp_path, tmp_path_factory.getbasetemp(), folder, "lora", **full)
        try:
            assert run.finish() == 1, run.said
        finally:
            rays.end(run.pid)
    rays.one_message(run.said, "Ray's memory monitor ended the worker")
    assert not list((tmp_path / "out" / "running").iterdir())


def job(folder: Path, name: str = "pack", minutes: float = 30) -> SimpleNamespace:
    return SimpleNamespace(folder=folder, name=name, stall_minutes=minutes)


def signs(folder: Path, name: str = "pack") -> Signs:
    (folder / "running").mkdir(exist_ok=True)
    return Signs.of(job(folder, name))


def test_the_deaths(tmp_path):
    found = signs(tmp_path)
    assert flight.how_it_died(OutOfMemoryError("x"), Running(job(tmp_path), found))[0] == "oom"
    assert "left the Ray cluster" in flight.how_it_died(NodeDiedError("x"), Running(job(tmp_path), found))[1]
    assert "SIGKILL" in flight.how_it_died(WorkerCrashedError(), Running(job(tmp_path), found))[1]
    found.crash.write_text("")
    assert "SIGKILL" in flight.how_it_died(WorkerCrashedError(), Running(job(tmp_path), found))[1]
    found.crash.write_text('Fatal Python error: Bus error\n\nCurrent thread 0x1:\n  File "a.py", line 3 in f\n')
    status, message, trace = flight.how_it_died(WorkerCrashedError(), Running(job(tmp_path), found))
    assert (status, message) == ("error", "the worker crashed, twice: Bus error")
    assert "line 3 in f" in trace


def test_a_name_with_a_dot_has_files_of_its_own(tmp_path):
    one, other = signs(tmp_path, "a.b"), signs(tmp_path, "a.c")
    one.write(1, "x")
    assert not other.progress.exists()
    one.remove()
    assert not list((tmp_path / "running").iterdir())


def test_a_job_is_stalled_once_it_runs_and_says_nothing_new(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(flight.time, "monotonic", lambda: clock[0])
    found, seen = signs(tmp_path), []
    work = Running(job(tmp_path, minutes=2), found)

    def look() -> bool:
        return work.look(lambda *what: seen.append(what))

    clock[0] = 10_000
    assert not look(), "it waits for its turn"
    found.write(0, "loading")
    assert not look()
    clock[0] += 120
    assert not look()
    found.write(0, "training", {"step": 3})
    clock[0] += 1
    assert not look()
    clock[0] += 121
    assert look()
    assert work.phase == "training"
    assert seen == [("pack", 0.0, "loading", {}), ("pack", 0.0, "training", {"step": 3.0})]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1",
        b"{}",
        b"[1, 2]",
        b"\xff",
        b"[null, 1, 2, {}]",
        b"[1, 2, 3, 4]",
        b'[1, 2, 3, {"a": "b"}]',
        b"[" * 100_000,
    ],
)
def test_what_is_no_progress(content):
    assert read_progress(content) is None


WORKERS = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from harness.executors.interface import Work
from harness.executors.ray import task

job = SimpleNamespace(folder=Path(sys.argv[1]), name="pack", pack=None)
signs = task.Signs.of(job)


def execute(job, report):
    assert signs.read_crash() == "", "what the last one left"
    assert task.read_progress(signs.progress.read_bytes()) == (0, "starting", {})
    report(5, "training")
    if number:
        os.kill(os.getpid(), number)


for number in (signal.SIGSEGV, signal.SIGKILL, 0):
    worker = os.fork()
    if worker == 0:
        task.carry_out(job, Work(execute, None))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -number
    print(signs.read_crash().partition(chr(10))[0])
    assert signs.progress.exists() == bool(number)
"""


def test_a_second_try_is_not_confused_by_the_first(tmp_path):
    """The first dies of SIGSEGV, the second of SIGKILL, the third does the job; each finds the files of the last."""
    done = subprocess.run([sys.executable, "-c", WORKERS, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Fatal Python error: Segmentation fault\n\n\n"
    assert not list((tmp_path / "running").iterdir())


PARENT = """
import os, sys, time
child = os.fork()
if child == 0:
    from harness.executors.ray.task import die_with_parent
    die_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(1000)
time.sleep(1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it on Linux")
def test_a_worker_dies_with_its_parent():
    import psutil

    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    pid = parent.stdout.readline()
    assert pid, "the child did not start"
    child = psutil.Process(int(pid))
    try:
        assert rays.living([child])
        parent.kill()
        parent.wait()
        rays.wait_until(lambda: not rays.living([child]), 30)
    finally:
        rays.end(parent.pid, [child])
