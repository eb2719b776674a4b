"""Ray's environment: a cluster of a run's own is closed to others, a cluster of the user's is left as it is.

Ray reads most of this when it is imported, so nothing here imports it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError, clipped

ADDRESS = "RAY_ADDRESS"  #: which ``--address`` sets
WHERE = f"--address (or {ADDRESS})"  #: what a person has to change
PROBE_SECONDS = 5.0  #: for one connection
JOIN_SECONDS = 15.0  #: to join a cluster that is there
START_SECONDS = 180.0  #: to start one, which takes ten on a free machine
UNSET = f"leave out --address and unset {ADDRESS} for a cluster of this run's own, or use --executor local"

#: Taken where the user has not set them.
DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 starves a worker beside other work: minutes for its imports
    "RAY_task_oom_retries": "1",  # Ray would try 15 times; the memory monitor may have hit the wrong one, but not twice
}

#: A cluster of our own keeps no account of its tasks for a dashboard that it does not have.
UNWATCHED = {"RAY_task_events_report_interval_ms": "0", "RAY_enable_metrics_collection": "0"}

#: The longest path of a socket (``sun_path`` without its end), and the longest name that Ray puts below its folder.
LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
PREFIX = "ray-"
INNER = "r"  # Ray opens the folder that it is given to everybody, so it is given one inside of ours
SOCKET = f"/{PREFIX}12345678/{INNER}/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store"


def address() -> str | None:
    """Where the user's cluster is (``host:port``, ``ray://host:port`` or ``auto``); None: this run has its own."""
    given = os.environ.get(ADDRESS, "").strip()
    return None if given in ("", "local") else given


def prepare() -> None:
    """Put Ray's settings into the environment of this process, and so of all that it starts.

    A cluster of our own listens on the loopback device, to those who know this process's token; the token is nowhere
    but in the environment of these processes, which only their user can read.
    """
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    if address() is not None:
        os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"  # what we say goes beside what `ray job submit` was told
    else:
        for key, value in UNWATCHED.items():
            os.environ.setdefault(key, value)
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = _token()
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # elsewhere, too: this node's address is 127.0.0.1
        # Workers import from where this process does: Ray gives them no more of that than its current folder.
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path and os.pathsep not in path)


@functools.cache
def _token() -> str:
    """One for the life of this process: Ray's client keeps the first that it has read."""
    return secrets.token_hex(32)


@dataclass(frozen=True)
class Endpoint:
    host: str
    port: int


def endpoint(address: str) -> Endpoint | None:
    """Host and port of an address; None where only Ray can find them (``auto``, another scheme)."""
    scheme, _, rest = address.rpartition("://")
    if address == "auto" or scheme not in ("", "ray"):
        return None
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", rest)
    if match is None or not 0 < int(match[3]) < 65536:
        raise InputError(
            f"'{clipped(address, 200)}' is not the address of a Ray cluster",
            where=WHERE,
            remedy=f"set it to host:port of a running one, or to auto; or {UNSET}",
        )
    return Endpoint(match[1] or match[2], int(match[3]))


def answers(point: Endpoint) -> bool:
    """Whether something takes connections there."""
    try:
        with socket.create_connection((point.host, point.port), timeout=PROBE_SECONDS):
            return True
    except (OSError, UnicodeError):  # the second: of a host's name that is none
        return False


def make_folder() -> Path:
    """A folder for the sockets and logs of a cluster of our own that only this user can enter.

    In ``RAY_TMPDIR``, which must do; else in ``TMPDIR`` where that does, else in ``/tmp``.  Ray's own, ``/tmp/ray``, is
    everybody's.
    """
    chosen = os.environ.get("RAY_TMPDIR")
    if not chosen and (general := os.environ.get("TMPDIR")):
        with contextlib.suppress(InputError):
            return _make_folder(general, "TMPDIR")
    return _make_folder(chosen or "/tmp", "RAY_TMPDIR" if chosen else "/tmp")


def _make_folder(parent: str, where: str) -> Path:
    shown, size, longest = clipped(parent, 200), len(os.fsencode(parent)), LONGEST_SOCKET - len(SOCKET)
    problem = None
    if not Path(parent).is_absolute():
        problem = f"'{shown}' is not an absolute path"
    elif size > longest:
        problem = f"'{shown}' is too long for the sockets that Ray makes there: {size} bytes, at most {longest}"
    else:
        try:
            Path(parent).mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        except OSError as error:
            problem = f"Ray's temporary folder cannot be made in '{shown}': {error.strerror or error}"
    remedy = "set RAY_TMPDIR to a short absolute path of a folder that can be written, such as /tmp"
    raise InputError(problem, where=where, remedy=remedy)
