"""Ray, started or joined: in bounded time, without its noise, and watched, so that its death is one message of ours.

What Ray 2.60 does by itself: a driver whose GCS dies is ended by Ray's C++ after 60 s; one whose raylet dies waits for
ever; ``ray.init`` of an address where nobody answers tries for minutes.  So ``ray.init`` runs in a thread that can be
given up, and another one looks after the processes.  That first thread stays for as long as Ray does: the kernel ends
Ray's processes with the thread that has started them.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray._private.worker

from harness.errors import InputError, LorabenchError, clipped
from harness.executors.ray import settings
from harness.executors.ray.silence import Spokesman, last_words, leave, native_stderr

import psutil  # isort: skip  # Ray's own copy, where there is no other: only once ray is imported

STORE_BYTES = 100 * 2**20  # of the object store, where nothing of ours is kept; Ray would take 30% of the memory
JOIN_SECONDS = 15.0  #: to join a cluster that is there
START_SECONDS = 180.0  #: to start one, which takes ten on a free machine
PROBE_SECONDS = 5.0  #: for one connection
LOOK_SECONDS = 0.5  #: between two looks at Ray's processes
GRACE_SECONDS = 8.0  #: until a driver that hangs in Ray is ended from another thread

#: How long the GCS or the raylet of a user's cluster may be away.  The user's own setting where there is one: a GCS
#: that keeps its state elsewhere comes back.
PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
PATIENCE_SECONDS = 15.0

AGAIN = "run the same command again: finished trials are kept"
NAMES = {"gcs_server": "GCS (its control process)", "raylet": "raylet (which starts its workers)"}


class Cluster:
    """Ray as this process has it.  ``check`` raises once it is lost; ``close`` leaves nothing behind."""

    def __init__(self) -> None:
        """Start Ray, or join it where ``RAY_ADDRESS`` says.  Raises InputError or LorabenchError within its time."""
        self._lost: LorabenchError | None = None
        self._lock = threading.Lock()
        self._said = threading.Event()
        self._unwatched, self._over = threading.Event(), threading.Event()
        self._folder: Path | None = None
        self._processes: set[psutil.Process] = set()  # those that Ray has started here
        self._ours = not ray.is_initialized()
        if not self._ours:
            return
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
        if not self._ours:
            return
        self._said.set()
        self._unwatched.set()
        self._watcher.join()  # or it would take the end for a death
        if self._lost is None:
            ray.shutdown()
            native_stderr.show()  # until then: Ray's C++ says of a raylet that dies what it could not tell it
            if self._folder:
                shutil.rmtree(self._folder, ignore_errors=True)
        self._over.set()

    # -- the beginning --------------------------------------------------------------------------------------------

    def _start(self) -> dict[str, Callable[[], bool]]:
        self._folder = folder = settings.make_folder()
        before = set(_children())
        pillars: dict[str, psutil.Process] = {}

        def failing() -> LorabenchError | None:
            self._processes |= _children() - before
            pillars.update({name: child for child in self._processes if (name := _name(child)) in NAMES})
            dead = (NAMES[name] for name, process in pillars.items() if not _alive(process))
            return next((self._death(name, "while it started") for name in dead), None)

        def late() -> LorabenchError:
            return LorabenchError(
                f"Ray has not started within {START_SECONDS:g} s",
                where=f"{folder} (Ray's logs)",
                remedy="see its logs, or use --executor local",
            )

        self._initialise(
            START_SECONDS, failing, late, address="local", _node_ip_address="127.0.0.1", include_dashboard=False,
            object_store_memory=STORE_BYTES, _temp_dir=str(folder / settings.INNER),
        )  # fmt: skip
        failing()  # to have them all
        return {NAMES[name]: lambda process=process: _alive(process) for name, process in pillars.items()}

    def _join(self, address: str) -> dict[str, Callable[[], bool]]:
        point = settings.endpoint(address)
        if point and not _answers(point):
            raise _unreachable(address)
        self._initialise(JOIN_SECONDS, lambda: None, lambda: _unreachable(address), address=address)
        if address.startswith("ray://"):
            return {f"server at {address}": _patient(lambda: point is None or _answers(point))}
        here = ray.get_runtime_context()
        gcs = settings.endpoint(here.gcs_address)
        node = next(node for node in ray.nodes() if node["NodeID"] == here.get_node_id())
        raylet = settings.Endpoint(node["NodeManagerAddress"], node["NodeManagerPort"])
        points = {NAMES["gcs_server"]: gcs, NAMES["raylet"]: raylet}
        return {name: _patient(lambda point=point: point is None or _answers(point)) for name, point in points.items()}

    def _initialise(
        self,
        seconds: float,
        failing: Callable[[], LorabenchError | None],
        late: Callable[[], LorabenchError],
        **words: Any,
    ) -> None:
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
        spokesman = Spokesman(self._death("GCS or raylet", "while it started, and ended this process with it"))
        native_stderr.hide()
        threading.Thread(target=initialise, name="ray", daemon=True).start()
        try:
            while not done.wait(LOOK_SECONDS):
                error = failing() or (late() if time.monotonic() > end else None)
                if error:
                    raise error
        except BaseException as error:  # Ctrl-C is one, too
            self._abandon(getattr(error, "exit_status", 130))
            raise
        finally:
            spokesman.dismiss()
        if failure:
            error = failing() or _refused(failure[0])
            self._kill()
            self._over.set()
            native_stderr.show()
            raise error
        _quiet()
        _end_orderly()

    # -- the watch ------------------------------------------------------------------------------------------------

    def _watch(self, probes: dict[str, Callable[[], bool]]) -> None:
        while not self._unwatched.wait(LOOK_SECONDS):
            dead = next((name for name, alive in probes.items() if not alive()), None)
            if dead:
                error = self._lose(dead)
                if not self._said.wait(GRACE_SECONDS):  # the driver hangs in Ray
                    last_words(error)
                return

    def _lose(self, what: str) -> LorabenchError:
        with self._lock:
            if self._lost is None:
                self._lost = self._death(what, "during the run")
                self._abandon(self._lost.exit_status)
            return self._lost

    def _death(self, what: str, when: str) -> LorabenchError:
        address = settings.address()
        if address:
            return LorabenchError(
                f"the Ray cluster's {what} died {when}, or cannot be reached any more",
                where=f"{settings.ADDRESS}={clipped(address, 200)}",
                remedy=f"see to the cluster, then {AGAIN}; or {settings.UNSET}",
            )
        return LorabenchError(
            f"Ray's {what} died {when}: killed, or out of memory",
            where=f"{self._folder} (Ray's logs)",
            remedy=f"{AGAIN}; or use --executor local",
        )

    def _abandon(self, status: int) -> None:
        """Leave Ray as it is, without its words: to shut down what is half dead takes it long, or crashes."""
        native_stderr.hide()
        self._kill()
        atexit.register(leave, status)  # before Ray's own, which was registered earlier

    def _kill(self) -> None:
        for process in self._processes:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _refused(error: BaseException) -> LorabenchError:
    """What ``ray.init`` raised, in our words and the first line of its own."""
    said = clipped((str(error).strip() or type(error).__name__).splitlines()[0], 400)
    address = settings.address()
    if address:
        return InputError(
            f"Ray cannot join '{clipped(address, 200)}': {said}",
            where=settings.ADDRESS,
            remedy=f"start it, or set address and token (RAY_AUTH_TOKEN) of a running one; or {settings.UNSET}",
        )
    return LorabenchError(f"Ray does not start: {said}", where="--executor ray", remedy="use --executor local")


def _unreachable(address: str) -> InputError:
    return InputError(
        f"no Ray cluster answers at '{clipped(address, 200)}'",
        where=settings.ADDRESS,
        remedy=f"start that cluster, or set the address of a running one; or {settings.UNSET}",
    )


def _answers(point: settings.Endpoint) -> bool:
    try:
        with socket.create_connection((point.host, point.port), timeout=PROBE_SECONDS):
            return True
    except OSError:
        return False


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


def _quiet() -> None:
    """Without Ray's reports of dead workers and raylets, twenty lines each: what died is said by us."""
    if hasattr(ray._private.worker, "print_to_stdstream"):
        ray._private.worker.print_to_stdstream = lambda *_, **__: None


def _end_orderly() -> None:
    """SIGTERM ends the run as Ctrl-C does, with the folder's claim given back; Ray sets this in a main thread only."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
