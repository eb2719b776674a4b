"""One run at a time in a results folder: a claim file that names its owner."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import LorabenchError


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold the folder; a claim whose process is gone is taken over, a living one raises :class:`LorabenchError`.

    The claim is written whole and then linked to its name, which fails where the name exists: nobody ever reads a part
    of a claim, and only one of two that come together gets it.
    """
    path = folder / "running" / "claim.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = path.with_name(f".claim.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    mine.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}))
    try:
        _take(path, mine)
    finally:
        mine.unlink()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take(path: Path, mine: Path) -> None:
    for _ in range(3):
        try:
            os.link(mine, path)
            return
        except FileExistsError:
            _refuse_living(path)
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
    raise LorabenchError("other runs keep claiming this folder", where=str(path), remedy="run one at a time")


def _refuse_living(path: Path) -> None:
    try:
        other = json.loads(path.read_text())
        host, pid, started = other["host"], int(other["pid"]), other.get("started")
    except (OSError, ValueError, KeyError, TypeError):
        return  # not a claim
    now = _started(pid)
    if host == socket.gethostname() and (now is None or (started is not None and now != started)):
        return  # that process is gone; its number may be another's by now
    raise LorabenchError(
        f"another run (process {pid} on {host}) is at work in this folder",
        where=str(path),
        remedy="wait for it, or remove this file if that process is gone",
    )


def _started(pid: int) -> str | None:
    """When a process started, by the kernel's clock; none where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    try:  # no /proc: whether it lives is all there is to know
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "living"
    return "living"
