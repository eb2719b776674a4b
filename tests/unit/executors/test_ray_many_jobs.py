"""Very many jobs: what a run and its Ray keep of each is its outcome."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import rays
from places import ROOT

#: What either process may grow by with a job, from 2,000 to 10,000 of them.  Its outcome and the message in which all
#: come home are some 560 bytes; with 1,000 more of each kept by hand it was 1,700.
BYTES = 1000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_neither_a_run_nor_its_driver_grows_with_its_jobs(tmp_path):
    """In a process that has done nothing else: what tests leave free would hide what a run takes."""
    with rays.short_folder() as folder:
        words = [sys.executable, "-m", "harness", "perf", "jobs", "--jobs", "10000", "--out", str(tmp_path)]
        environment = rays.clean(RAY_TMPDIR=str(folder))
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "jobs-cpu.json").read_text())
    assert [told["memory"][0]["jobs"], told["memory"][-1]["jobs"]] == [2000, 10_000]
    grown = {process: told["headline"][f"{process}_bytes_a_job"] for process in ("run", "driver")}
    assert max(grown.values()) < BYTES, grown
