"""An address that is no cluster, a cluster that dies, an input error of a worker: one message, in bounded time."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

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


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    "address", ["foo", "127.0.0.1:abc", "127.0.0.1:99999", "http://x:1", "127.0.0.1:{port}", "ray://127.0.0.1:{port}",
                "nosuchhost.invalid:6379", "auto"]
)  # fmt: skip
def test_an_address_where_there_is_no_cluster(start, tmp_path, address):
    address = address.format(port=closed_port())
    command = start(RAY_ADDRESS=address)
    assert command.finish(LIMIT) == 2
    rays.one_message(command.said, "RAY_ADDRESS: ", address, "unset RAY_ADDRESS", "--executor local")
    assert not (tmp_path / "out").exists()
    assert not rays.children(command.pid)


def test_an_address_where_something_else_listens(start):
    """It takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        command = start(RAY_ADDRESS=f"127.0.0.1:{other.getsockname()[1]}")
        assert command.finish(LIMIT) == 2
    rays.one_message(command.said, "RAY_ADDRESS: no Ray cluster answers at '127.0.0.1:")


def test_auto_and_the_file_of_a_dead_cluster(start, folder):
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{closed_port()}")
    command = start(RAY_ADDRESS="auto")
    assert command.finish(LIMIT) == 2
    rays.one_message(command.said, "RAY_ADDRESS: no Ray cluster answers at 'auto'")


@pytest.mark.parametrize("path", ["/tmp/" + "x" * 90, "/dev/null/x", "here"])
def test_a_folder_where_ray_cannot_start(start, path):
    command = start(RAY_TMPDIR=path)
    assert command.finish(LIMIT) == 2
    rays.one_message(command.said, "RAY_TMPDIR: ", path, "set RAY_TMPDIR to")


def test_an_input_error_of_a_worker_is_its_message(start):
    """The tokenizer is read in the worker; Ray would show where it was raised, there and here."""
    command = start(STUDY.replace("items: 32", "items: 32, chat_template: true"))
    assert command.finish() == 2
    rays.one_message(command.said, "tokenizer_config.json:chat_template: a chat template is asked for")


def kill(command: Command, name: str, moment: Callable[[], bool]) -> None:
    """Kill Ray's process of this name; the command must end by itself and leave nothing."""
    rays.wait_until(moment, said=lambda: command.said)
    below = rays.children(command.pid)
    (victim,) = (process for process in below if process.name() == name)
    victim.kill()
    try:
        assert command.finish(LIMIT) == 1
        rays.wait_until(lambda: not rays.living(below), 10, lambda: str(rays.living(below)))
    finally:
        rays.end(command.pid, below)


@pytest.mark.parametrize(("name", "called"), [("raylet", "Ray's raylet"), ("gcs_server", "Ray's GCS")])
def test_a_part_of_ray_that_dies_during_the_run(start, tmp_path, name, called):
    command = start()
    kill(command, name, lambda: any(tmp_path.glob("out/running/lora*.progress")) or any(tmp_path.glob("out/base.json")))
    rays.one_message(command.said, called, "died during the run", "run the same command again")
    assert not (tmp_path / "out" / "running" / "claim.json").exists(), "the claim is given back"


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_part_of_ray_that_dies_while_it_starts(start, tmp_path, name):
    command = start()
    kill(command, name, lambda: name in [process.name() for process in rays.children(command.pid)])
    rays.one_message(command.said, "Ray's ", "died while it started", "--executor local")


@pytest.mark.parametrize("ended", [True, False])
def test_what_is_said_where_ray_ends_the_process(ended):
    """As Ray's C++ does when a raylet dies at the wrong moment: by _Exit, with standard error hidden."""
    code = (
        "import os; from harness.errors import LorabenchError; from harness.executors.ray import silence;"
        "spokesman = silence.Spokesman(LorabenchError('it\\'s \"gone\" 100%s', where='here', remedy='try $HOME'));"
        f"silence.native_stderr.hide(); {ended} or spokesman.dismiss(); os._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == ('error: here: it\'s "gone" 100%s\n  -> try $HOME\n' if ended else "")


def test_a_users_cluster_that_dies(start, folder, tmp_path):
    with rays.foreign_cluster(folder) as address:
        command = start(RAY_ADDRESS=address, RAY_AUTH_MODE="disabled")
        rays.wait_until(lambda: any(tmp_path.glob("out/base.json")), said=lambda: command.said)
    assert command.finish(LIMIT) == 1
    rays.one_message(command.said, "RAY_ADDRESS=", "the Ray cluster's", "or cannot be reached any more")
