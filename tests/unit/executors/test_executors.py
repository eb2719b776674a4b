"""The registry of executors, the local one, and what is known of a GPU without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from harness import executors
from harness.errors import InputError, LorabenchError
from harness.executors import Deferred, hardware, make_executor
from harness.executors.interface import Outcome, Report, Work
from harness.executors.local import LocalExecutor


@dataclass(frozen=True)
class Job:
    name: str
    folder: Path = Path()
    device: str = "cpu"
    threads: int = 1
    stall_minutes: float = 30


def watch(*_: object) -> None:
    pass


def never(*_: object) -> Outcome:
    pytest.fail("it was given up")


# -- the registry -----------------------------------------------------------------------------------------------------


def test_a_new_executor_is_a_module_and_a_line(monkeypatch):
    module = types.ModuleType("harness.executors.slurm")
    module.make = lambda: "the cluster"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "harness.executors.slurm", module)
    monkeypatch.setitem(executors.EXECUTORS, "slurm", "as jobs of a Slurm cluster")
    assert make_executor("slurm") == "the cluster"


def test_an_unknown_executor_is_refused_with_the_nearest():
    for make in (make_executor, Deferred):
        with pytest.raises(InputError, match="locl") as caught:
            make("locl")
        assert "'local'" in str(caught.value)


def test_a_deferred_executor_is_made_when_it_is_needed(monkeypatch):
    made = []
    monkeypatch.setattr(executors, "make_executor", lambda name: made.append(name) or LocalExecutor())
    with Deferred("ray") as executor:
        assert made == []
        assert executor.device("cpu").kind == executor.ask(lambda: "cpu", executor.device("cpu")) == "cpu"
        assert made == ["ray"]


# -- the local executor -----------------------------------------------------------------------------------------------


def test_jobs_run_in_their_order():
    seen, said = [], []

    def do(job: Job, report: Report) -> Outcome:
        seen.append(job.name)
        report(3, "training", {"step": 1})
        return Outcome(job.name, "oom" if job.name == "a" else None)

    done = LocalExecutor().run([Job("a"), Job("b")], Work(do, never), lambda *what: said.append(what))
    assert [outcome.job for outcome in done] == seen == ["a", "b"]
    assert said == [
        ("a", 3, "training", {"step": 1}), ("a", 0, "failed"), ("b", 3, "training", {"step": 1}), ("b", 0, "ended"),
    ]  # fmt: skip


def test_a_job_that_stands_still_is_given_up_where_it_stood():
    given = []

    def do(job: Job, report: Report) -> Outcome:
        report(1, "training")
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)  # the half hour strikes soon
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                continue

    def give_up(job, status, failure) -> Outcome:
        given.append((status, failure.phase, failure.message))
        assert "time.sleep" in failure.traceback
        return Outcome(job.name, status)

    (done,) = LocalExecutor().run([Job("a")], Work(do, give_up), watch)
    assert done.failed == "timeout"
    assert given == [("timeout", "training", "no sign of life for 30 minutes (stall_minutes in the study)")]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_what_a_job_raises_ends_the_run():
    def do(job: Job, report: Report) -> Outcome:
        raise LorabenchError("the disk is full")

    with pytest.raises(LorabenchError, match="disk is full"):
        LocalExecutor().run([Job("a")], Work(do, never), watch)


# -- the GPU ----------------------------------------------------------------------------------------------------------


def told(code: str) -> str:
    """What a process prints that has not imported torch."""
    start = "import sys; from harness.executors import hardware\n"
    return subprocess.run(
        [sys.executable, "-c", start + code], capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip


def test_without_torch_the_answer_is_torchs():
    assert told("print(hardware.has_gpu())") == str(torch.cuda.is_available())


@pytest.mark.parametrize(
    ("cuda", "hip", "driver", "certain"),
    [
        (None, None, True, True),
        (None, None, False, True),
        ("13.0", None, False, True),
        ("13.0", None, True, False),
        (None, "6.4", False, False),
    ],
)
def test_torch_is_asked_where_it_could_see_a_gpu(monkeypatch, cuda, hip, driver, certain):
    monkeypatch.setattr(hardware, "_build", lambda: (cuda, hip))
    monkeypatch.setattr(hardware, "_loads", lambda library: driver)
    monkeypatch.setattr(hardware.sys, "platform", "linux")
    assert hardware._certainly_without() == certain


def test_torch_is_asked_where_its_build_is_not_known(monkeypatch):
    monkeypatch.setattr(hardware, "_build", lambda: None)
    assert not hardware._certainly_without()


def test_the_build_is_that_of_the_installed_torch():
    assert hardware._build() == (torch.version.cuda, torch.version.hip)


def test_a_likely_device_refuses_nothing(monkeypatch):
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    assert [hardware.likely_device(wanted).kind for wanted in ("cpu", "any", "cuda")] == ["cpu", "cpu", "cuda"]


@pytest.mark.parametrize(
    ("flags", "emulated"),
    [("fpu avx2 fma", True), ("avx2 avx512f avx512_bf16", False), ("avx2 amx_bf16", False), ("fp asimd bf16", False)],
)
def test_a_cpu_says_whether_it_has_bfloat16(tmp_path, flags, emulated):
    told = tmp_path / "cpuinfo"
    told.write_text(f"processor : 0\nflags : {flags}\n")
    assert hardware.emulates_bfloat16(told) == emulated
    assert not hardware.emulates_bfloat16(tmp_path / "none")


@pytest.mark.parametrize(("share", "usable"), [("350000 100000", 3), ("50000 100000", 1), ("max 100000", 5), (None, 5)])
def test_cores_are_those_of_the_containers_share(tmp_path, monkeypatch, share, usable):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(5)), raising=False)
    if share:
        (tmp_path / "cpu.max").write_text(f"{share}\n")
    assert hardware.usable_cores(tmp_path / "cpu.max") == usable
