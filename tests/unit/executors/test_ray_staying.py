"""A worker's process goes on to its next job with what it has loaded, unless a job has failed or moved."""

from __future__ import annotations

import json
import tempfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray_jobs
import rays

from harness.executors import make_executor
from harness.executors.interface import Executor, Outcome, Work
from harness.executors.ray import flight, staying, task
from harness.executors.ray.staying import NEVER

Info = namedtuple("Info", "max_calls")


@pytest.fixture
def left(monkeypatch) -> list[bool]:
    """One entry for each time that the process was to leave."""
    times: list[bool] = []
    monkeypatch.setattr(staying, "leave", lambda: times.append(True))
    monkeypatch.setattr(staying, "_gpus", None)
    monkeypatch.setattr(task, "die_with_parent", lambda: None)
    return times


def job(folder: Path) -> SimpleNamespace:
    return SimpleNamespace(folder=folder, name="pack")


def gave_up(job, status, failure) -> Outcome:
    return Outcome(job.name, status, failure.message)


def exits(job, report) -> Outcome:
    raise SystemExit(3)


@pytest.mark.parametrize(("failed", "leaves"), [(None, False), ("oom", True), ("error", True), ("timeout", True)])
def test_a_process_leaves_after_a_job_that_failed(tmp_path, left, failed, leaves):
    given = Outcome("pack", failed)
    assert task.carry_out(job(tmp_path), Work(lambda job, report: given, gave_up)) == given
    assert bool(left) == leaves


def test_a_process_leaves_after_what_a_job_raised(tmp_path, left):
    def raises(job, report) -> Outcome:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError):
        task.carry_out(job(tmp_path), Work(raises, gave_up))
    assert left == [True]
    outcome = task.carry_out(job(tmp_path), Work(exits, gave_up))
    assert outcome is not None
    assert outcome.failed == "error"
    assert left == [True, True]


def test_a_process_takes_no_job_for_another_gpu(tmp_path, left, monkeypatch):
    done = []
    work = Work(lambda job, report: done.append(job.name) or Outcome(job.name), gave_up)
    for gpus, taken in (((0,), True), ((0,), True), ((1,), False), ((), False), ((0,), True)):
        monkeypatch.setattr(staying, "_assigned", lambda gpus=gpus: gpus)
        before = len(left)
        assert (task.carry_out(job(tmp_path), work) is not None) == taken
        assert (len(left) > before) == (not taken)
    assert len(done) == 3
    assert not list((tmp_path / "running").iterdir())


def test_a_process_that_leaves_has_done_all_its_jobs(monkeypatch):
    ours, other = object(), object()
    manager = SimpleNamespace(
        _num_task_executions={ours: 3, other: 3}, _function_execution_info={ours: Info(NEVER), other: Info(0)}
    )
    monkeypatch.setattr(staying, "_manager", lambda: manager)
    staying.leave()
    assert manager._num_task_executions == {ours: NEVER - 1, other: 3}, "Ray counts the job at hand when it is done"


def test_where_a_process_cannot_leave_it_does_one_job_on_a_gpu(monkeypatch):
    assert staying.can_leave(), "this Ray lets it"
    calls = {key: flight._remote(*key)._max_calls for key in [(d, s) for d in ("cpu", "cuda") for s in (True, False)]}
    assert calls == {("cpu", True): NEVER, ("cuda", True): NEVER, ("cpu", False): 0, ("cuda", False): 1}
    monkeypatch.setattr(staying, "_manager", lambda: None)
    assert not staying.can_leave()
    staying.leave()


# -- on a cluster that says it has GPUs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Executor]:
    """Two CPUs and, as it says, two GPUs."""
    with (
        pytest.MonkeyPatch.context() as patch,
        rays.short_folder() as folder,
        rays.foreign_cluster(folder, "--num-cpus=2", "--num-gpus=2") as address,
    ):
        patch.setenv("RAY_ADDRESS", address)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        made = make_executor("ray")
        try:
            yield made
        finally:
            made.close()


def told(cluster: Executor, device: str, threads: int, *names: str) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        jobs = [ray_jobs.Small(name, Path(folder), device, threads) for name in names]
        outcomes = cluster.run(jobs, ray_jobs.TELL, lambda *what: None)
    assert [outcome.job for outcome in outcomes] == list(names)
    assert [outcome.failed for outcome in outcomes] == ["oom" if "fails" in name else None for name in names]
    return [json.loads(outcome.message) for outcome in outcomes]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_one_process_does_job_after_job_until_one_fails(cluster, device):
    """Each job takes both CPUs, so that they run one after the other; Ray may begin another process at any time."""
    names = ("a", "b", "c", "d-fails", "e", "f", "g-fails", "h", "i")
    jobs: dict[int, list[str]] = {}
    before: dict[int, int] = {}  # a process may be one that has done jobs of the test before this
    for name, each in zip(names, told(cluster, device, 2, *names), strict=True):
        jobs.setdefault(each["process"], []).append(name)
        assert each["jobs"] == before.setdefault(each["process"], each["jobs"] - 1) + len(jobs[each["process"]])
    assert not [had for had in jobs.values() if any("fails" in name for name in had[:-1])], jobs
    assert max(map(len, jobs.values())) > 1, "kept"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_outcome_tells_how_many_attempts_it_took(cluster, tmp_path):
    jobs = [ray_jobs.Small(name, tmp_path) for name in ("dies", "lives")]
    outcomes = cluster.run(jobs, ray_jobs.DIE_ONCE, lambda *what: None)
    assert outcomes == [Outcome("dies", attempts=2), Outcome("lives")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_process_works_on_two_gpus(cluster):
    gpus: dict[int, set[str]] = {}
    for size in (2, 1, 4, 1, 6, 2):
        for each in told(cluster, "cuda", 1, *(f"job{number}" for number in range(size))):
            gpus.setdefault(each["process"], set()).add(str(each["gpus"]))
    assert all(len(of_process) == 1 for of_process in gpus.values())
