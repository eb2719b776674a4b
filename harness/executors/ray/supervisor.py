"""The run's side of Ray's driver, which is a process of its own: whatever Ray makes of it, a run ends with a message.

Ray's C++ ends the process that it is in where a raylet dies at a wrong moment: by ``_Exit``, at once, with no word or
hook of Python's; elsewhere it holds Python's lock for as long as a raylet does not answer.  Neither can be mended from
inside, and what it says on standard error is not for a person.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

from harness.errors import LorabenchError
from harness.executors.interface import Answer, Job, Outcome, Watch, Work
from harness.executors.ray import messages, settings
from harness.executors.ray.sealed import Needs, seal
from harness.study.config import ResourceSettings
from harness.study.stack import Device

CLOSE_SECONDS = 30.0  #: for a driver to end Ray; it is killed then
GONE_SECONDS = 5.0  #: for killed processes to be gone
MORE_SECONDS = 30.0  #: beyond what a driver takes to say that Ray has not started

NOTHING: Mapping[str, Callable[..., object]] = {}

#: The driver imports from where this process does, wherever that is.
PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[4])
from harness.executors.ray.driver import main
main(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "main")
"""


class Supervisor:
    """An executor that hands everything to Ray's driver and outlives it."""

    def __init__(self) -> None:
        """Start Ray, or join it where ``RAY_ADDRESS`` says.  Raises InputError or LorabenchError in bounded time."""
        address = settings.address()
        self._joins = joins = address is not None
        if address is not None:
            messages.check_reachable(address)
        self._folder = None if joins else settings.make_folder()
        self._over = False
        self._error: LorabenchError | None = None  #: that ended the driver
        _end_orderly()
        self._channel, self._process = self._launch()
        try:
            self._hear("while it started", seconds=settings.JOIN_SECONDS if joins else settings.START_SECONDS)
        except BaseException:
            self.close()
            raise

    def device(self, wanted: str, resources: ResourceSettings | None = None) -> Device:
        return self._ask("device", wanted, resources)

    def ask(self, question: Callable[[], Answer], device: Device) -> Answer:
        """The answer of this process where it is the machine, which spares one that loads torch for that."""
        return self._ask("ask", pickle.dumps(question), device.kind) if self._joins else question()

    def run(self, jobs: Sequence[Job], work: Work, watch: Watch) -> list[Outcome]:
        if not jobs:
            return []

        def give(number: int) -> None:
            with contextlib.suppress(OSError):  # a driver that is gone is noticed in what it does not say
                self._channel.send(("content", seal(jobs[number], work)))

        return self._ask("run", [Needs.of(job) for job in jobs], progress=watch, take=give)

    def describe(self) -> str:
        return self._ask("describe")

    def close(self) -> None:
        """End the driver, and Ray with it; also while it is at work."""
        if self._over:
            return
        self._over = True
        try:
            # A cluster of our own has nothing to keep, and takes Ray seconds to end in order.
            if self._joins or sys.platform != "linux":
                self._end_driver()
        finally:
            self._kill()
            self._channel.close()
        if self._folder and str(self._folder) not in str(self._error):  # else somebody will look into it
            shutil.rmtree(self._folder, ignore_errors=True)

    def _end_driver(self) -> None:
        """Have it leave the user's cluster, in bounded time."""
        end = time.monotonic() + CLOSE_SECONDS
        with contextlib.suppress(OSError):
            self._channel.send(("close",))
            while self._channel.poll(max(0.0, end - time.monotonic())) and os.read(self._channel.fileno(), 2**16):
                pass  # what it still says is of no use; the connection ends when it does

    def _launch(self) -> tuple[Any, subprocess.Popen[bytes]]:
        here, there = Pipe()
        thread = "main" if threading.current_thread() is threading.main_thread() else "another"
        words = [str(there.fileno()), str(self._folder or ""), thread, json.dumps(sys.path)]
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *words], pass_fds=[there.fileno()],
                start_new_session=True,  # Ctrl-C is for this process, which sees to it that Ray ends
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            there.close()
        return here, process

    def _ask(self, name: str, *given: Any, **meanwhile: Callable[..., object]) -> Any:
        if self._error is not None:
            raise self._error
        with contextlib.suppress(OSError):  # a driver that is gone: what it has left to say is heard
            self._channel.send((name, *given))
        return self._hear("during the run", meanwhile=meanwhile)

    def _hear(self, when: str, *, seconds: float | None = None, meanwhile: Mapping[str, Callable] = NOTHING) -> Any:
        """The answer to a request; ``meanwhile`` is what is done with what the driver says before."""
        while True:
            try:
                if seconds is not None and not self._channel.poll(seconds + MORE_SECONDS):
                    raise self._lose(messages.late(self._folder))
                kind, *what = self._channel.recv()
            except (EOFError, OSError):
                raise self._lose(self._death(when)) from None
            if kind == "done":
                return what[0]
            if kind == "raised":
                raise self._raised(*what)
            (print_line if kind == "said" else meanwhile[kind])(*what)

    def _raised(self, error: Exception, trace: str) -> Exception:
        if isinstance(error, LorabenchError):
            if self._folder and str(self._folder) in str(error):
                self._error = error  # Ray is lost
        else:
            error.__cause__ = RuntimeError(f"in Ray's driver:\n{trace}")
        return error

    def _lose(self, error: LorabenchError) -> LorabenchError:
        self._error = error
        self._kill()
        return error

    def _death(self, when: str) -> LorabenchError:
        """What is said of a driver that has ended without a word."""
        self._kill()
        if self._process.returncode == -signal.SIGKILL:
            return messages.died("driver (this run's process in it)", when, self._folder)
        return messages.died("GCS or raylet", f"{when}, and ended its driver with it", self._folder)

    def _kill(self) -> None:
        """Kill the driver and what is left of all that it has started."""
        if self._process.returncode is None:  # until it is waited for, nobody else gets its number
            _kill_session(self._process.pid)
            self._process.wait()


def print_line(text: str) -> None:
    """What the driver has to say to a person, such as what it waits for."""
    print(text, file=sys.stderr, flush=True)


def _kill_session(leader: int) -> None:
    """Kill all of a session, and see them end: what comes next may need their memory, or their GPU."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    end = time.monotonic() + GONE_SECONDS
    while (left := _session(leader)) and time.monotonic() < end:  # Ray's workers have groups of their own
        for process in left:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


def _session(leader: int) -> list[int]:
    """The processes of a session but its leader, those that have ended and are not waited for left out."""
    found = []
    for path in Path("/proc").glob("[1-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
            if path.name != str(leader) and state != "Z" and os.getsid(int(path.name)) == leader:
                found.append(int(path.name))
    return found


def _end_orderly() -> None:
    """SIGTERM ends the run as Ctrl-C does, with the folder's claim given back."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
