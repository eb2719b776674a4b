"""Ray, started or joined: in bounded time and watched, so that its death is one message of ours.

What Ray 2.60 does by itself: a driver whose GCS dies is ended by Ray's C++ after 60 s; one whose raylet dies waits for
ever; ``ray.init`` of an address where nobody answers tries for minutes.  So ``ray.init`` runs in a thread that can be
given up, and another one looks after the processes.  That first thread stays for as long as Ray does: the kernel ends
Ray's processes with the thread that has started them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray

from harness.errors import LorabenchError
from harness.executors.ray import messages, settings
from harness.executors.ray.parcel import runtime_environment

import psutil  # isort: skip  # Ray's own copy, where there is no other: only once ray is imported

STORE_BYTES = 100 * 2**20  # of the object store, where nothing of ours is kept; Ray would take 30% of the memory
LOOK_SECONDS = 0.5  #: between two looks at Ray's processes
GRACE_SECONDS = 8.0  #: until a driver that hangs in Ray is ended from another thread

#: How long the GCS or the raylet of a user's cluster may be away.  The user's own setting where there is one: a GCS
#: that keeps its state elsewhere comes back.
PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
PATIENCE_SECONDS = 15.0

NAMES = {"gcs_server": "GCS (its control process)", "raylet": "raylet (which starts its workers)"}


class Cluster:
    """Ray as this process has it.  ``check`` raises once it is lost; ``close`` leaves nothing behind."""

    def __init__(self, folder: Path | None, last_words: Callable[[LorabenchError], None]) -> None:
        """Start Ray, or join it where ``RAY_ADDRESS`` says.  Raises InputError or LorabenchError within its time.

        ``folder`` is for sockets and logs of a cluster of our own.  ``last_words`` says an error and ends the process;
        it is called from a thread where the driver hangs in Ray.
        """
        self._folder, self._last_words = folder, last_words
        self.ours = folder is not None  #: started here, on this machine alone
        self._lost: LorabenchError | None = None
        self._lock = threading.Lock()
        self._said = threading.Event()
        self._unwatched, self._over = threading.Event(), threading.Event()
        self._processes: set[psutil.Process] = set()  # those that Ray has started here
        address = settings.address()
        probes = self._join(address) if address else self._start()
        self._watcher = threading.Thread(target=self._watch, args=(probes,), name="ray-watch", daemon=True)
        self._watcher.start()

    def check(self) -> None:
        """Raise :class:`LorabenchError` if Ray has died."""
        if self._lost is not None:
            self._said.set()
            raise self._lost

    def lost(self, what: str) -> LorabenchError:
        """The error for a death that the driver has noticed itself; Ray is not used from here on."""
        self._said.set()
        return self._lose(what)

    def close(self) -> None:
        self._said.set()
        self._unwatched.set()
        self._watcher.join()  # or it would take the end for a death
        if self._lost is None:  # to shut down what is half dead takes Ray long, or it crashes
            ray.shutdown()
        self._over.set()

    # -- the beginning --------------------------------------------------------------------------------------------

    def _start(self) -> dict[str, Callable[[], bool]]:
        before = set(_children())
        pillars: dict[str, psutil.Process] = {}

        def failing() -> LorabenchError | None:
            self._processes |= _children() - before
            pillars.update({name: child for child in self._processes if (name := _name(child)) in NAMES})
            dead = (NAMES[name] for name, process in pillars.items() if not _alive(process))
            return next((self._death(name, "while it started") for name in dead), None)

        self._initialise(
            settings.START_SECONDS, failing, address="local", _node_ip_address="127.0.0.1", include_dashboard=False,
            object_store_memory=STORE_BYTES, _temp_dir=f"{self._folder}/{settings.INNER}",
        )  # fmt: skip
        failing()  # to have them all
        return {NAMES[name]: lambda process=process: _alive(process) for name, process in pillars.items()}

    def _join(self, address: str) -> dict[str, Callable[[], bool]]:
        point = settings.endpoint(address)
        with tempfile.TemporaryDirectory(prefix="lorabench-") as folder:
            parcel = runtime_environment(Path(folder))
            self._initialise(settings.JOIN_SECONDS, lambda: None, address=address, runtime_env=parcel)
        if address.startswith("ray://"):
            return {f"server at {address}": _patient(partial(_answers, point))}
        here = ray.get_runtime_context()
        gcs = settings.endpoint(here.gcs_address)
        node = next(node for node in ray.nodes() if node["NodeID"] == here.get_node_id())
        raylet = settings.Endpoint(node["NodeManagerAddress"], node["NodeManagerPort"])
        points = {NAMES["gcs_server"]: gcs, NAMES["raylet"]: raylet}
        return {name: _patient(partial(_answers, point)) for name, point in points.items()}

    def _initialise(self, seconds: float, failing: Callable[[], LorabenchError | None], **words: Any) -> None:
        """``ray.init`` in a thread of its own, given up after ``seconds`` or when ``failing`` says why."""
        done, failure = threading.Event(), []

        def initialise() -> None:
            try:
                ray.init(log_to_driver=False, logging_level=logging.CRITICAL, namespace="lorabench", **words)
            except BaseException as error:
                failure.append(error)
            done.set()
            self._over.wait()

        end = time.monotonic() + seconds
        threading.Thread(target=initialise, name="ray", daemon=True).start()
        try:
            while not done.wait(LOOK_SECONDS):
                error = failing() or (messages.late(self._folder) if time.monotonic() > end else None)
                if error:
                    raise error
            if failure:
                raise failing() or messages.refused(failure[0])
        except BaseException:  # Ctrl-C is one, too
            self._kill()
            raise

    # -- the watch ------------------------------------------------------------------------------------------------

    def _watch(self, probes: dict[str, Callable[[], bool]]) -> None:
        while not self._unwatched.wait(LOOK_SECONDS):
            dead = next((name for name, alive in probes.items() if not alive()), None)
            if dead:
                error = self._lose(dead)
                if not self._said.wait(GRACE_SECONDS):  # the driver hangs in Ray
                    self._last_words(error)
                return

    def _lose(self, what: str) -> LorabenchError:
        with self._lock:
            if self._lost is None:
                self._lost = self._death(what, "during the run")
                self._kill()
            return self._lost

    def _death(self, what: str, when: str) -> LorabenchError:
        return messages.died(what, when, self._folder)

    def _kill(self) -> None:
        for process in self._processes:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _answers(point: settings.Endpoint | None) -> bool:
    """Also where it is not known where to ask."""
    return point is None or settings.answers(point)


def _patient(alive: Callable[[], bool]) -> Callable[[], bool]:
    """The same, with false only once it has been false for the time that a cluster may be away."""
    patience = float(os.environ.get(PATIENCE) or PATIENCE_SECONDS)
    seen = time.monotonic()

    def look() -> bool:
        nonlocal seen
        if alive():
            seen = time.monotonic()
        return time.monotonic() - seen < patience

    return look


def _children() -> set[psutil.Process]:
    """All processes below this one."""
    with contextlib.suppress(psutil.Error):
        return set(psutil.Process().children(recursive=True))
    return set()


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
