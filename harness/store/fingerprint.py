"""Digests that identify work: the same from the plan and from the record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces; refuses NaN and anything that is not plain data."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def source_digest(files: Iterable[Path]) -> str:
    """sha256 over the names and contents of source files, whatever folders they are in and come in which order."""
    sha = hashlib.sha256()
    for name, content in sorted((path.name, path.read_bytes()) for path in set(files)):
        sha.update(name.encode() + b"\0" + content + b"\0")
    return sha.hexdigest()
