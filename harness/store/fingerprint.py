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
    """sha256 over the contents of source files, in the order of their names."""
    sha = hashlib.sha256()
    for path in sorted(set(files), key=lambda p: p.name):
        sha.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()
