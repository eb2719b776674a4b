"""``lorabench perf jobs``: what a job takes and leaves, of a run and of what stands for Ray's driver; and with Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.errors import LorabenchError
from harness.executors.interface import Outcome, Watch, Work
from harness.executors.local import LocalExecutor
from harness.executors.ray.settings import ADDRESS
from harness.perf import jobs
from harness.perf.jobs import Cost, Memory
from harness.perf.trivial import Trivial

LEAK = 2**20

#: Takes 0.01 seconds of a core for a line, and keeps memory.
DRIVER = f"""
import sys, time
kept = []
print("started", flush=True)
for line in sys.stdin:
    kept.append(b"x" * {LEAK})
    end = time.process_time() + 0.01
    while time.process_time() < end:
        pass
    print("done", flush=True)
"""


class Leaking(LocalExecutor):
    """Jobs in this process, beside one that keeps a megabyte of each."""

    def __init__(self) -> None:
        words = [sys.executable, "-c", DRIVER]
        self.driver = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.seen = SimpleNamespace(address=os.environ.get(ADDRESS), closed=False)
        assert self._hear() == "started\n"

    def _hear(self) -> str:
        assert self.driver.stdout
        return self.driver.stdout.readline()

    def run(self, jobs: Sequence[Trivial], work: Work, watch: Watch) -> list[Outcome]:
        def keep(job: str, units: float, what: str, *_: object) -> None:
            assert self.driver.stdin
            self.driver.stdin.write("one\n")
            assert self._hear() == "done\n"
            watch(job, units, what)

        return super().run(jobs, work, keep)

    def close(self) -> None:
        self.driver.kill()
        self.driver.communicate()
        self.seen.closed = True


@pytest.fixture
def made(monkeypatch) -> list[Leaking]:
    """The executors that were asked for."""
    found: list[Leaking] = []

    def make(name: str) -> Leaking:
        assert name == "ray"
        found.append(Leaking())
        return found[-1]

    monkeypatch.setattr(jobs, "make_executor", make)
    return found


def test_what_each_job_takes_and_leaves_is_written(made, tmp_path, monkeypatch):
    monkeypatch.setenv(ADDRESS, "somewhere:6379")
    jobs.main(20, tmp_path)
    told = json.loads((tmp_path / "jobs-cpu.json").read_text())
    assert (told["jobs"], told["cores"] > 0, told["load"] >= 0) == (20, True, True)
    assert [part["jobs"] for part in told["memory"]] == [4, 8, 12, 16, 20]
    assert told["headline"]["driver_bytes_a_job"] == pytest.approx(LEAK, rel=0.1)
    assert told["headline"]["run_bytes_a_job"] < LEAK / 2
    assert told["headline"]["driver_cpu_milliseconds_a_job"] > 8, "10, and the clock's own steps"
    assert told["headline"]["milliseconds_a_job"] == 1000 * told["seconds"] / 20
    (executor,) = made
    assert (executor.seen.address, executor.seen.closed) == (None, True), "a Ray of its own, which is ended"
    assert os.environ[ADDRESS] == "somewhere:6379"


def test_memory_is_that_between_the_first_part_and_all():
    memory = tuple(Memory(n, run=n * 10, driver=n * 1000 + 5) for n in (2000, 10_000))
    assert Cost(9.0, 20.0, 2.0, 10.0, memory).headline() == {
        "milliseconds_a_job": 2.0, "run_cpu_milliseconds_a_job": 0.2, "driver_cpu_milliseconds_a_job": 1.0,
        "run_bytes_a_job": 10.0, "driver_bytes_a_job": 1000.0,
    }  # fmt: skip


def test_jobs_that_fail_are_no_time(made, tmp_path, monkeypatch):
    def fail(job: Trivial, report: object) -> Outcome:
        return Outcome(job.name, "oom" if job.name.endswith("7") else None, "no memory")

    monkeypatch.setattr(jobs, "WORK", replace(jobs.WORK, do=fail))
    with pytest.raises(LorabenchError, match="2 of 20 jobs failed: no memory"):
        jobs.main(20, tmp_path)
    assert made[0].seen.closed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_small_edition_goes_through_a_ray_of_its_own(tmp_path, in_process):
    status, said, _ = in_process("perf", "jobs", "--small", "--out", tmp_path)
    assert status == 0
    assert said.startswith("200 jobs: milliseconds_a_job ")
    told = json.loads((tmp_path / "jobs-cpu.json").read_text())
    assert told["memory"][-1]["jobs"] == 200
    assert min(told["headline"]["milliseconds_a_job"], told["headline"]["driver_cpu_milliseconds_a_job"]) > 0
