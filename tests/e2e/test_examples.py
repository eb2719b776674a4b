"""The examples for clusters, run as they stand on one machine: with stand-ins for Slurm, and as a job of Ray."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import campaigns
import pytest
import rays
from places import ROOT

from harness.store.results import read_trials

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux" or not shutil.which("bash"), reason="needs bash on Linux"),
]

STUDY = campaigns.TOY | {
    "methods": {"lora": {}, "stable_lora": {}}, "pack": 1, "training": {"examples": 16, "batch": 8},
    "scoring": {"items": 8, "curve": []},
}  # fmt: skip
#: What they call.  ``srun`` runs here what it is given, once a node; all nodes of ``scontrol`` are this machine.
COMMANDS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"',
    "scontrol": "printf 'one\\ntwo\\n'",
    "lorabench": f'exec {sys.executable} -m harness "$@"',
    "ray": f'exec {sys.executable} -m ray.scripts.scripts "$@"',
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for a study, whose path is short enough for Ray's sockets, with the commands in ``bin``."""
    with rays.short_folder() as folder:
        (folder / "bin").mkdir()
        for name, text in COMMANDS.items():
            path = folder / "bin" / name
            path.write_text(f"#!/usr/bin/env bash\n{text}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        campaigns.write_study(folder, STUDY)
        yield folder


def environment(place: Path, cache: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(place / "bin"), os.environ["PATH"]])
    python = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return rays.clean(PATH=path, LORABENCH_CACHE=str(cache), RAY_worker_niceness="0", **more) | {"PYTHONPATH": python}


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("", 0))
        return asked.getsockname()[1]


def example(name: str, place: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = ["bash", str(ROOT / "examples" / name), str(place / "mine.yaml"), str(place / "out")]
    return subprocess.run(words, env=env, cwd=place, capture_output=True, text=True, errors="replace", check=False)


def test_slurms_script_runs_a_study_on_two_nodes(place, shared_cache):
    job = str(10_000 + os.getpid() % 10_000)
    slurm = {
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NODELIST": "one,two",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }
    done = example("slurm.sh", place, environment(place, shared_cache, **slurm))
    assert done.returncode == 0, done.stderr[-3000:]
    records = read_trials(place / "out").records
    assert [record.status for record in records] == ["ok"] * 2
    assert {record.host["executor"] for record in records} == {"ray"}
    assert (place / "out" / "report.html").exists()
    assert not Path(f"/tmp/ray-{job}").exists()
    rays.wait_until(lambda: not rays.living(rays.of_session(f"/tmp/ray-{job}")), 60)


@contextlib.contextmanager
def head(place: Path, env: dict[str, str]) -> Iterator[str]:
    """The address of the dashboard of a Ray head, where jobs are submitted."""
    port = free_port()
    # By default every cluster's agent listens at one port, and starts no jobs where that is taken.
    words = ["start", "--head", f"--port={free_port()}", "--num-cpus=1", "--include-dashboard=true",
             f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats",
             f"--temp-dir={place}/r", "--block"]  # fmt: skip
    started = subprocess.Popen([place / "bin" / "ray", *words], env=env, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        rays.wait_until(lambda: _answers(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        rays.end(started.pid)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_a_job_of_ray_runs_a_study_on_its_cluster(place, shared_cache):
    env = environment(place, shared_cache, RAY_AUTH_MODE="disabled")
    with head(place, env) as address:
        for _ in range(60):  # the dashboard answers before the agent is there that starts jobs
            done = example("ray_job.sh", place, env | {"RAY_API_SERVER_ADDRESS": address})
            said = done.stdout + done.stderr
            if "No available agent" not in said:
                break
            time.sleep(1)
        assert done.returncode == 0, said[-3000:]
    records = read_trials(place / "out").records
    assert [record.status for record in records] == ["ok"] * 2
    assert {record.host["executor"] for record in records} == {"ray"}
    assert "2 of 2 packs done" in said
    assert "all 2 trials are done (2 ok)" in said
