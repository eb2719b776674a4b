"""Very many jobs: what Ray and its driver keep of each is nothing."""

from __future__ import annotations

import os

import psutil
import pytest
import ray_jobs
import rays
from ray_jobs import Small

from harness.executors import make_executor

JOBS = 2000
#: What the driver may grow by with so many jobs, in bytes: a job that is kept has some 10 KB.
GROWTH = 8 * 2**20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_driver_does_not_grow_with_its_jobs(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with rays.short_folder() as folder:
        monkeypatch.setenv("RAY_TMPDIR", str(folder))
        executor = make_executor("ray")
        try:

            def run(jobs: int) -> int:
                """Bytes that the driver has after so many jobs."""
                names = [f"job{number}" for number in range(jobs)]
                done = executor.run([Small(name, tmp_path) for name in names], ray_jobs.NOTHING, lambda *_: None)
                assert [outcome.job for outcome in done] == names
                (driver,) = filter(rays.is_driver, psutil.Process(os.getpid()).children())
                return driver.memory_info().rss

            before = run(JOBS // 2)
            assert run(JOBS) - before < GROWTH
        finally:
            executor.close()
