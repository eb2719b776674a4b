"""A cluster of a run's own: nobody else gets in, nothing listens to the network, and no other cluster is joined."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import rays

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HELD = """
import os, sys
before = dict(os.environ)
from harness.executors import make_executor
import ray_jobs
executor = make_executor("ray")
(outcome,) = executor.run([ray_jobs.Small()], ray_jobs.LOOK, lambda *_: None)
assert before == dict(os.environ)
print(outcome.message, flush=True)
sys.stdin.readline()
executor.close()
"""

#: Runs a command in the cluster at argv[1] as a stranger would.
INTRUDER = """
import os, sys, ray
ray.init(address=sys.argv[1], logging_level="CRITICAL", log_to_driver=False)
print("joined", ray.get(ray.remote(lambda: os.getpid()).remote()), flush=True)
"""


@contextmanager
def held(folder: Path, **environment: str) -> Iterator[tuple[dict, int]]:
    """What a worker sees of its cluster, and the process that holds that cluster."""
    words = [sys.executable, "-c", HELD]
    holder = subprocess.Popen(
        words, env=rays.clean(RAY_TMPDIR=str(folder), **environment), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    below = []
    try:
        line = holder.stdout.readline()
        assert line.startswith("{"), line + holder.stdout.read()
        below = rays.children(holder.pid)
        yield json.loads(line), holder.pid
        left, _ = holder.communicate("\n", timeout=rays.WAIT)
        assert holder.returncode == 0
        assert not left
        rays.wait_until(lambda: not rays.living(below), said=lambda: str(rays.living(below)))
    finally:
        rays.end(holder.pid, below)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with rays.short_folder() as made:
        yield made


@pytest.fixture(scope="module")
def foreign(folder) -> Iterator[str]:
    """The address of somebody's ``ray start --head``, which has the resource ``foreign`` and asks for no token."""
    with rays.foreign_cluster(folder, '--resources={"foreign": 1}') as address:
        yield address


@pytest.fixture(scope="module")
def ours(folder, foreign) -> Iterator[tuple[dict, int]]:
    """A run without ``RAY_ADDRESS`` beside the foreign cluster."""
    with held(folder) as found:
        yield found


def test_a_foreign_cluster_is_not_joined(ours, foreign):
    seen, _ = ours
    assert seen["gcs"] != foreign
    assert "foreign" not in seen["resources"]
    assert seen["nodes"] == 1
    assert seen["resources"]["object_store_memory"] <= 100 * 2**20


def test_nothing_listens_to_the_network(ours):
    _, pid = ours
    listening = {
        (process.name(), socket.laddr.ip)
        for process in [psutil.Process(pid), *rays.children(pid)]
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    }
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    outside = {(name, ip) for name, ip in listening if ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")}
    assert not outside


def test_the_token_is_on_no_command_line_and_in_no_file(ours, folder):
    seen, pid = ours
    token = seen["auth"]["RAY_AUTH_TOKEN"]
    for process in [psutil.Process(pid), *rays.children(pid)]:
        assert token not in " ".join(process.cmdline())
    (own,) = folder.glob("ray-*")
    assert own.stat().st_mode & 0o777 == 0o700
    files = [path for path in own.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    assert not [path for path in files if token.encode() in path.read_bytes()]


def test_a_client_without_the_token_is_refused(ours, foreign):
    """The same client gets into the foreign cluster, so it is the token that keeps it out of ours."""
    seen, _ = ours
    attempts = {
        "no token": (seen["gcs"], {"RAY_AUTH_MODE": "disabled"}),
        "another token": (seen["gcs"], {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}),
        "an open cluster": (foreign, {"RAY_AUTH_MODE": "disabled"}),
    }
    # The first two reach the loopback address, which Ray would otherwise take for this machine's other one.
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", INTRUDER, address], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=rays.clean(**more, **({} if address == foreign else {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"})),
        )
        for name, (address, more) in attempts.items()
    }  # fmt: skip
    try:
        said = {name: process.communicate(timeout=rays.WAIT)[0] for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
    assert "joined" in said["an open cluster"]
    for name in ("no token", "another token"):
        assert "joined" not in said[name]
        assert running[name].returncode != 0
        assert "Unauthenticated" in said[name], said[name]


def test_a_users_cluster_is_joined_with_its_own_authentication(folder, foreign):
    with held(folder, RAY_ADDRESS=foreign, RAY_AUTH_MODE="disabled") as (seen, _):
        assert seen["gcs"] == foreign
        assert seen["resources"]["foreign"] == 1
        assert seen["auth"] == {"RAY_AUTH_MODE": "disabled"}


def test_the_file_of_a_dead_cluster_does_not_matter():
    with rays.short_folder() as folder:
        (folder / "ray").mkdir()
        (folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:6399")
        with held(folder) as (seen, _):
            assert seen["nodes"] == 1
        assert [path.name for path in folder.iterdir()] == ["ray"], "its own folder is removed at the end"
