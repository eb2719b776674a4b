"""Atomic writes: a reader sees the old file or the new one, never a part of either.

Pattern: a temporary file with a fresh name in the same folder, fsync, ``os.replace``, fsync of the folder.  Cost: one
more directory entry for a moment.  Scope: one writer at a time wins, several are safe.  On any failure (a full disk, a
kill) the old file is intact; readers ignore ``*.tmp``.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import LorabenchError


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replace the file's contents, or leave it as it was."""
    content = data.encode() if isinstance(data, str) else data
    atomic_file(path, lambda temporary: temporary.write_bytes(content))


def atomic_file(path: Path, write: Callable[[Path], Any]) -> None:
    """The same for a file that ``write(temporary_path)`` makes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # safetensors has an error of its own for a full disk
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise LorabenchError(
                f"cannot write the file: {getattr(error, 'strerror', None) or error}; no part of a file was left",
                where=str(path),
                remedy="free disk space or choose another folder with --out, then run again: finished trials are kept",
            ) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Indented JSON with a final newline; NaN and infinities are refused, since they are not JSON."""
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
