"""One run at a time in a results folder: a claim file made with O_EXCL that names its owner."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import LorabenchError


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold the folder; a claim whose process is gone is taken over, a living one raises :class:`LorabenchError`."""
    path = folder / "running" / "claim.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = {"host": socket.gethostname(), "pid": os.getpid()}
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            _refuse_living(path, owner["host"])
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            continue
        with os.fdopen(descriptor, "w") as file:
            json.dump(owner, file)
        break
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _refuse_living(path: Path, here: object) -> None:
    try:
        other = json.loads(path.read_text())
        host, pid = other["host"], int(other["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # half-written by a process that died
    if host == here and not _alive(pid):
        return
    raise LorabenchError(
        f"another run (process {pid} on {host}) is at work in this folder",
        where=str(path),
        remedy="wait for it, or remove this file if that process is gone",
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
