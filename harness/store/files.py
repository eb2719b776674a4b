"""Atomic writes: a reader sees the old file or the new one, never a part of either.

Pattern: a temporary file with a fresh name in the same folder, fsync, ``os.replace``, fsync of the folder.  Cost: one
more directory entry for a moment.  Scope: one writer at a time wins, several are safe.  On any failure (a full disk, a
kill) the old file is intact; readers ignore ``*.tmp``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import FolderError

#: What file systems without hard links say.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replace the file's contents, or leave it as it was."""
    content = data.encode() if isinstance(data, str) else data
    atomic_file(path, lambda temporary: temporary.write_bytes(content))


def atomic_file(path: Path, write: Callable[[Path], Any]) -> None:
    """The same for a file that ``write(temporary_path)`` makes."""
    _publish(path, write, Path.replace)


def create_json(path: Path, value: Any) -> bool:
    """Write JSON where there is no file of this name yet; of several writers one wins.  False: there is one."""
    content = _json(value).encode()
    try:
        _publish(path, lambda temporary: temporary.write_bytes(content), _link)
    except _TakenError:
        return False
    return True


class _TakenError(Exception):
    """There is a file of this name."""


def rename_new(source: Path, target: Path) -> bool:
    """Give a file a name that nothing has; False, and nothing is changed, where something has it."""
    try:
        _link(source, target)
    except _TakenError:
        return False
    return True


def _link(temporary: Path, path: Path) -> None:
    """Give the file its name, which must be free."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _TakenError from None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if path.exists():  # all that can be done where names can't be linked (exFAT, some mounts of a cloud)
            raise _TakenError from None
        temporary.replace(path)
    else:
        temporary.unlink()


def _publish(path: Path, write: Callable[[Path], Any], name: Callable[[Path, Path], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _sync(temporary)
        name(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # safetensors has an error of its own for a full disk
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise FolderError(
                f"cannot write the file: {getattr(error, 'strerror', None) or error}; no part of a file was left",
                where=str(path),
                remedy="free disk space or choose another folder with --out, then run again: finished trials are kept",
            ) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Indented JSON with a final newline; NaN and infinities are refused, since they are not JSON."""
    atomic_write(path, _json(value))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


#: How a temporary file is called, with the process that makes it.
_TEMPORARY = re.compile(r"\..*\.(\d+)\.\w+\.tmp")
#: Seconds after which nobody is still writing a temporary file, whoever it was.
ABANDONED = 3600.0


def sweep_temporary(folder: Path) -> None:
    """Remove the temporary files of processes that are gone from a results folder; a report may be writing its own.

    A number says nothing of a process on another machine, so a file that is younger than :data:`ABANDONED` stays while
    there is a process of its number here.  A file of safetensors' own says nothing of who makes it: only this folder's
    run does, which is the caller.  What else lies below the folder, such as the run that tunes its study, is not looked
    at.
    """
    for place in ("adapters", "running"):
        for path in (folder / place).glob(".tmp??????"):
            with contextlib.suppress(OSError):
                path.unlink()
    places = [folder / place for place in (".", "trials", "adapters", "figures", "running", "quarantine", "superseded")]
    for path in (path for place in places for path in place.glob(".*.tmp")):
        match = _TEMPORARY.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if match and (not _living(int(match[1])) or time.time() - path.stat().st_mtime > ABANDONED):
                path.unlink()


def _living(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
