"""An address that is no cluster, a cluster that dies, an input error of a worker: one message, in bounded time."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import rays
from commands import Command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Seconds for the command; a driver that nobody stops tries a dead address for minutes.
LIMIT = 75.0

STUDY = """
model: tiny-random-llama
dtype: float32
threads: 1
device: cpu
seeds: [0]
streams:
  recall_digits: [toy_recall, toy_digits]
methods:
  lora: {}
training: {examples: 384, batch: 8}
scoring: {items: 32, curve: []}
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with rays.short_folder() as made:
        yield made


@pytest.fixture
def start(folder, tmp_path, shared_cache) -> Iterator[Callable[..., Command]]:
    """Start ``lorabench run`` of a study of one trial; whatever it leaves is killed at the end."""
    started = []

    def go(study: str = STUDY, **environment: str) -> Command:
        file = tmp_path / "small.yaml"
        file.write_text(study)
        words = ["run", str(file), "--no-report", f"--out={tmp_path / 'out'}"]
        given = {"RAY_TMPDIR": str(folder), "LORABENCH_CACHE": str(shared_cache), "COLUMNS": "200"} | environment
        started.append(Command(words, given))
        return started[-1]

    yield go
    for command in started:
        rays.end(command.pid)


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "http://x:1", "auto"])
def test_an_address_where_there_is_no_cluster(start, tmp_path, address):
    if address == "auto" and any(process.name() == "gcs_server" for process in psutil.process_iter(["name"])):
        pytest.skip("a cluster of other tests is on this machine, and Ray would find it")
    address = address.format(port=rays.closed_port())
    command = start(RAY_ADDRESS=address)
    assert command.finish(LIMIT) == 2
    rays.one_message(command.said, "--address (or RAY_ADDRESS): ", address, "unset RAY_ADDRESS", "--executor local")
    assert not (tmp_path / "out").exists()
    assert not rays.children(command.pid)


def test_an_address_where_something_else_listens(start):
    """It takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        command = start(RAY_ADDRESS=f"127.0.0.1:{other.getsockname()[1]}")
        assert command.finish(LIMIT) == 2
    rays.one_message(command.said, "--address (or RAY_ADDRESS): no Ray cluster answers at '127.0.0.1:")


def test_auto_and_the_file_of_a_dead_cluster(start, folder):
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{rays.closed_port()}")
    others = "tests beside this one have a cluster, which 'auto' finds"  # it takes any cluster of this machine
    if rays.clusters():
        pytest.skip(others)
    command = start(RAY_ADDRESS="auto")
    try:
        ended = command.finish(LIMIT)
    except TimeoutError:  # it waits for a place on that cluster
        ended = None
    if ended != 2 and rays.clusters():
        pytest.skip(others)
    assert ended == 2
    rays.one_message(command.said, "--address (or RAY_ADDRESS): no Ray cluster answers at 'auto'")


def test_a_folder_where_ray_cannot_start(start):
    command = start(RAY_TMPDIR="/dev/null/x")
    assert command.finish(LIMIT) == 2
    rays.one_message(command.said, "RAY_TMPDIR: ", "/dev/null/x", "set RAY_TMPDIR to")


def test_an_input_error_of_a_worker_is_its_message(start):
    """The tokenizer is read in the worker; Ray would show where it was raised, there and here."""
    command = start(STUDY.replace("items: 32", "items: 32, chat_template: true"))
    assert command.finish() == 2
    rays.one_message(command.said, "tokenizer_config.json:chat_template: a chat template is asked for")


def at_work(folder: Path) -> bool:
    return any(folder.glob("out/running/lora*.progress")) or any(folder.glob("out/base.json"))


def named(command: Command, name: str) -> list[psutil.Process]:
    """Ray's processes of this name, the oldest first: a worker bears its raylet's for a moment."""
    below = [process for process in rays.children(command.pid) if rays.words(process).startswith(f"{name} ")]
    return sorted(below, key=psutil.Process.create_time)


def kill(command: Command, name: str, moment: Callable[[], bool]) -> None:
    """Kill Ray's process of this name; the command must end by itself and leave nothing."""
    rays.wait_until(moment, said=lambda: command.said)
    below = rays.children(command.pid)
    named(command, name)[0].kill()
    try:
        assert command.finish(LIMIT) == 1
        rays.wait_until(lambda: not rays.living(below), 10, lambda: str(rays.living(below)))
    finally:
        rays.end(command.pid, below)


@pytest.mark.parametrize(("name", "called"), [("raylet", "Ray's raylet"), ("gcs_server", "Ray's GCS")])
def test_a_part_of_ray_that_dies_during_the_run(start, tmp_path, name, called):
    command = start()
    kill(command, name, lambda: at_work(tmp_path))
    rays.one_message(command.said, called, "died during the run", "run the same command again")
    assert not (tmp_path / "out" / "running" / "claim.json").exists(), "the claim is given back"


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_part_of_ray_that_dies_while_it_starts(start, tmp_path, name):
    command = start()
    kill(command, name, lambda: bool(named(command, name)))
    rays.one_message(command.said, "Ray's ", "died while it started", "--executor local")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_at_work(start, tmp_path, folder, number, status):
    command = start()
    rays.wait_until(lambda: at_work(tmp_path), said=lambda: command.said)
    below = rays.children(command.pid)
    os.kill(command.pid, number)
    assert command.finish(LIMIT) == status
    assert not rays.living(below)
    assert not list(folder.iterdir()), "Ray's folder is removed"
    assert not (tmp_path / "out" / "running" / "claim.json").exists(), "the claim is given back"
    for noise in (*rays.NOISE, "error: "):
        assert noise not in command.said, command.said


def connections(folder: Path) -> int:
    """How many have connected to the raylet whose socket is below this folder."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    paths = [line[7] for line in lines if len(line) > 7]
    return sum(path.startswith(str(folder)) and path.endswith("sockets/raylet") for path in paths) - 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_raylet_that_dies_as_its_driver_registers(start, folder):
    """Ray's C++ ends the driver then, at once; the message is there when the command has ended."""
    command = start()
    end = time.monotonic() + rays.WAIT
    while connections(folder) < 1:  # milliseconds count
        assert time.monotonic() < end, command.said
        time.sleep(0.0005)
    kill(command, "raylet", lambda: True)
    rays.one_message(command.said, "raylet", "died while it started", "--executor local")


def test_a_driver_that_dies(start, tmp_path):
    command = start()
    rays.wait_until(lambda: at_work(tmp_path), said=lambda: command.said)
    below = rays.children(command.pid)
    (driver,) = filter(rays.is_driver, below)
    driver.kill()
    assert command.finish(LIMIT) == 1
    rays.one_message(command.said, "Ray's driver", "died during the run", "run the same command again")
    assert not (tmp_path / "out" / "running" / "claim.json").exists(), "the claim is given back"
    rays.wait_until(lambda: not rays.living(below), 10, lambda: str(rays.living(below)))


def test_a_users_cluster_that_dies(start, folder, tmp_path):
    with rays.foreign_cluster(folder) as address:
        command = start(RAY_ADDRESS=address, RAY_AUTH_MODE="disabled", RAY_gcs_rpc_server_reconnect_timeout_s="5")
        rays.wait_until(lambda: any(tmp_path.glob("out/base.json")), said=lambda: command.said)
    assert command.finish(LIMIT) == 1
    rays.one_message(
        command.said, f"--address {address} (or RAY_ADDRESS)", "the Ray cluster's", "or cannot be reached any more"
    )
