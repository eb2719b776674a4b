"""``lorabench perf jobs``: what Ray takes for a job, and what is kept of each, by ten thousand that do nothing.

They go through the executor of ``lorabench run``, on a Ray of its own.  Timed is from when they are handed over to the
last outcome, with the start of workers and without that of Ray.  A run is two processes: its own, this one here, and
Ray's driver beside it.  What a job leaves in either is by how much its resident memory grows from when a fifth of the
jobs has ended, and all is loaded that there is to load, until all outcomes are here.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import psutil  # which peft needs
import torch

from harness.errors import LorabenchError
from harness.executors import make_executor
from harness.executors.hardware import usable_cores
from harness.executors.interface import ENDED, FAILED, NO_FIGURES, Figures
from harness.executors.ray.settings import ADDRESS
from harness.perf.common import save
from harness.perf.trivial import WORK, Trivial

PARTS = 5  #: after each part of the jobs memory is looked at


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the run's process and of Ray's driver once so many jobs have ended."""

    jobs: int
    run: int
    driver: int


@dataclass(frozen=True)
class Cost:
    """Of all jobs: seconds, those of a core in the run's process and in Ray's driver, and memory part by part."""

    start_seconds: float  #: of Ray, before the jobs
    seconds: float
    run_cpu_seconds: float
    driver_cpu_seconds: float
    memory: tuple[Memory, ...]

    def headline(self) -> dict[str, float]:
        first, last = self.memory[0], self.memory[-1]
        return {
            "milliseconds_a_job": 1000 * self.seconds / last.jobs,
            "run_cpu_milliseconds_a_job": 1000 * self.run_cpu_seconds / last.jobs,
            "driver_cpu_milliseconds_a_job": 1000 * self.driver_cpu_seconds / last.jobs,
            "run_bytes_a_job": (last.run - first.run) / (last.jobs - first.jobs),
            "driver_bytes_a_job": (last.driver - first.driver) / (last.jobs - first.jobs),
        }


def main(jobs: int, out: Path) -> None:
    """Run so many jobs, :data:`PARTS` at least; print what one takes and leaves; write ``jobs-cpu.json``.

    Raises LorabenchError where one failed.
    """
    about = {"jobs": jobs, "cores": usable_cores(), "load": os.getloadavg()[0]}
    with _own_ray(), tempfile.TemporaryDirectory(prefix="lorabench-jobs-") as folder:
        cost = _cost([Trivial(f"job{number}", Path(folder)) for number in range(jobs)])
    headline = cost.headline()
    print(f"{jobs} jobs: " + "  ".join(f"{name} {value:.2f}" for name, value in headline.items()), flush=True)
    save(out, "jobs", torch.device("cpu"), about | asdict(cost) | {"headline": headline})


@contextmanager
def _own_ray() -> Iterator[None]:
    """No cluster of the person's is joined."""
    address = os.environ.pop(ADDRESS, None)
    try:
        yield
    finally:
        if address is not None:
            os.environ[ADDRESS] = address


def _cost(jobs: Sequence[Trivial]) -> Cost:
    run = psutil.Process()
    others = set(run.children())
    before = time.perf_counter()
    with closing(make_executor("ray")) as executor:
        start_seconds = time.perf_counter() - before
        (driver,) = set(run.children()) - others
        marks = {len(jobs) * part // PARTS for part in range(1, PARTS)}
        memory: list[Memory] = []
        ended = count(1)

        def look(jobs_ended: int) -> None:
            memory.append(Memory(jobs_ended, run.memory_info().rss, driver.memory_info().rss))

        def watch(job: str, units: float, what: str, figures: Figures = NO_FIGURES) -> None:
            if what in (ENDED, FAILED) and (number := next(ended)) in marks:
                look(number)

        cpu, began = (_cpu_seconds(run), _cpu_seconds(driver)), time.perf_counter()
        outcomes = executor.run(jobs, WORK, watch)
        seconds = time.perf_counter() - began
        run_cpu, driver_cpu = _cpu_seconds(run) - cpu[0], _cpu_seconds(driver) - cpu[1]
        look(len(outcomes))
    if failed := [outcome for outcome in outcomes if outcome.failed]:
        raise LorabenchError(
            f"{len(failed)} of {len(jobs)} jobs failed: {failed[0].message}",
            where="lorabench perf jobs",
            remedy="see to that first, then time it",
        )
    return Cost(start_seconds, seconds, run_cpu, driver_cpu, tuple(memory))


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
