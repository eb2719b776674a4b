"""Whatever becomes of Ray's driver, its supervisor says so in one message; the drivers here are stand-ins."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
import rays
from ray_jobs import LOOK, Small

from harness.errors import InputError, LorabenchError
from harness.executors.ray import settings, supervisor
from harness.executors.ray.sealed import SEALED, Needs, Waiting, seal
from harness.executors.ray.supervisor import Supervisor
from harness.store.records import Failure

#: What every stand-in begins with; ``say`` is its side of the connection.
BEGIN = """
import json, os, pickle, signal, sys, time, zlib
sys.path[:] = json.loads(sys.argv[4])
from multiprocessing.connection import Connection
channel = Connection(int(sys.argv[1]))
say = channel.send
"""
STARTED = BEGIN + 'say(("done", None))\n'


@pytest.fixture
def start(tmp_path, monkeypatch) -> Iterator[Callable[[str], Supervisor]]:
    """The supervisor of a driver that does this."""
    monkeypatch.setattr(settings, "make_folder", lambda: Path(mkdtemp(dir=tmp_path)))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(supervisor, "CLOSE_SECONDS", 5.0)
    before, made = signal.getsignal(signal.SIGTERM), []

    def go(program: str) -> Supervisor:
        monkeypatch.setattr(supervisor, "PROGRAM", program)
        made.append(Supervisor())
        return made[-1]

    yield go
    for one in made:
        one.close()
    signal.signal(signal.SIGTERM, before)


def error_of(call: Callable[..., object], *given: object) -> LorabenchError:
    with pytest.raises(LorabenchError) as caught:
        call(*given)
    return caught.value


@pytest.mark.parametrize(
    ("end", "named"),
    [
        ("os._exit(1)", "GCS or raylet died {when}, and ended its driver with it"),  # Ray's C++ as a raylet dies
        ("os.abort()", "GCS or raylet died {when}, and ended its driver with it"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "driver (this run's process in it) died {when}"),
    ],
)
@pytest.mark.parametrize("when", ["while it started", "during the run"])
def test_a_driver_that_is_ended(start, end, named, when):
    if when == "while it started":
        error = error_of(start, BEGIN + end)
    else:
        running = start(STARTED + f"channel.recv(); {end}")
        error = error_of(running.device, "any")
        assert error_of(running.describe) is error, "and says the same again"
    assert f"Ray's {named.format(when=when)}: killed, or out of memory" in error.what
    assert "run the same command again: finished trials are kept" in str(error.remedy)
    assert Path(str(error.where).removesuffix(" (Ray's logs)")).is_dir(), "the logs are kept"


def test_a_driver_that_ends_between_two_requests(start):
    running = start(STARTED + "os._exit(1)")
    running._process.wait()
    assert "died during the run" in error_of(running.device, "any").what


def test_what_a_driver_said_before_it_ended_is_heard(start):
    words = "from harness.errors import LorabenchError\nsay(('raised', LorabenchError('the raylet'), ''))\n"
    running = start(STARTED + words + "os._exit(1)")
    running._process.wait()
    assert error_of(running.device, "any").what == "the raylet"


@pytest.mark.parametrize(
    "address", ["foo", "127.0.0.1:abc", "127.0.0.1:99999", "127.0.0.1:{port}", "ray://127.0.0.1:{port}",
                "nosuchhost.invalid:6379", "a..b:1"]
)  # fmt: skip
def test_an_address_where_there_is_no_cluster(start, monkeypatch, address):
    address = address.format(port=rays.closed_port())
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(supervisor.subprocess, "Popen", None)  # no process is started to find that out
    error = error_of(start, STARTED)
    assert (type(error), error.where) == (InputError, "--address (or RAY_ADDRESS)")
    assert address in error.what
    for remedy in ("leave out --address and unset RAY_ADDRESS", "--executor local"):
        assert remedy in str(error.remedy)


def test_a_driver_that_hangs_while_it_starts(start, monkeypatch):
    """Ray's C++ holds Python's lock there, so that not even a thread of the driver could say so."""
    monkeypatch.setattr(settings, "START_SECONDS", 0.2)
    monkeypatch.setattr(supervisor, "MORE_SECONDS", 0.2)
    assert "Ray has not started within 0.2 s" in error_of(start, BEGIN + "time.sleep(1000)").what


@pytest.mark.parametrize("group", ["None", "0"])
def test_no_process_of_a_dead_driver_is_left(start, tmp_path, group):
    """Ray's agents would outlive it by a minute; its workers have process groups of their own."""
    file = tmp_path / "pid"
    leave = f"import subprocess; left = subprocess.Popen(['sleep', '1000'], process_group={group})\n"
    error_of(start, BEGIN + leave + f"open({str(file)!r}, 'w').write(str(left.pid))\nos._exit(1)")
    rays.wait_until(lambda: not rays.living(rays.processes(int(file.read_text()))), 10)


@pytest.mark.parametrize("joins", [False, True])
def test_a_driver_that_does_not_end_is_killed_at_the_close(start, monkeypatch, joins):
    monkeypatch.setattr(supervisor, "CLOSE_SECONDS", 0.2)
    if joins:
        monkeypatch.setenv("RAY_ADDRESS", "auto")
    running = start(STARTED + "signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(1000)")
    running.close()
    assert running._process.returncode == -signal.SIGKILL
    assert joins or not running._folder.exists(), "nobody was told to look into it"


def test_a_driver_leaves_the_users_cluster_in_order(start, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    left = tmp_path / "left"
    running = start(STARTED + f"assert channel.recv() == ('close',); open({str(left)!r}, 'w').close()")
    running.close()
    assert left.exists()


def test_errors_of_a_driver_keep_class_and_place(start):
    running = start(
        STARTED + "from harness.errors import InputError\n"
        "channel.recv(); say(('raised', InputError('no GPU', where='here'), ''))\n"
        "channel.recv(); say(('raised', ZeroDivisionError('x'), 'the traceback there'))\n"
        "channel.recv()"
    )
    assert type(error_of(running.device, "cuda")) is InputError
    with pytest.raises(ZeroDivisionError) as caught:
        running.describe()
    assert "the traceback there" in str(caught.value.__cause__)


def test_a_driver_takes_the_jobs_when_it_needs_them(start):
    running = start(
        STARTED + "name, needs = channel.recv(); say(('progress', needs[1].name, 1.0, 'training')); say(('take', 1))\n"
        "name, content = channel.recv(); job, work = pickle.loads(zlib.decompress(content))\n"
        "say(('done', [needs[0].threads, len(needs), job.name]))\n"
        "channel.recv()"
    )
    said: list[tuple] = []
    assert running.run([Small("a"), Small("b")], LOOK, lambda *what: said.append(what)) == [1, 2, "b"]
    assert said == [("b", 1.0, "training")]
    assert running.run([], LOOK, lambda *what: said.append(what)) == []


def test_a_job_is_sealed_as_it_is_sent():
    job, taken = Small("a"), []
    waiting = Waiting(**vars(Needs.of(job)), take=lambda: taken.append(1) or seal(job, LOOK))
    assert not taken
    sent = pickle.loads(pickle.dumps(waiting))
    assert (taken, sent.name, sent.threads) == ([1], "a", 1)
    assert SEALED.give_up(sent, "error", Failure(phase="x", message="why", traceback="")).message == "why"
    assert SEALED.give_up(waiting, "oom", Failure(phase="x", message="why", traceback="")).failed == "oom"


#: Holds an executor whose driver is the real one without Ray, until it is killed.
HOLDER = """
import time
from harness.executors.ray import supervisor
supervisor.PROGRAM = '''
import json, sys
sys.path[:] = json.loads(sys.argv[4])
from harness.executors.ray import driver
driver.Driver._start = lambda self: None
driver.main(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "main")
'''
held = supervisor.Supervisor()
print(held._process.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_a_driver_ends_with_its_run(stopped):
    """Nothing that it has started may go on beside the same command run again."""
    with rays.short_folder() as folder:
        words, environment = [sys.executable, "-c", HOLDER], rays.clean(RAY_TMPDIR=str(folder))
        holder = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
        assert holder.stdout
        driver = rays.processes(int(holder.stdout.readline()))
        try:
            if stopped:  # then it does not see the end of its connection
                driver[0].suspend()
            holder.kill()
            rays.wait_until(lambda: not rays.living(driver), 30)
        finally:
            rays.end(holder.pid, driver)
