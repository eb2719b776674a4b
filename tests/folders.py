"""What a folder of results holds, to be compared with another or with itself later."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """File name -> record, without what two runs of the same trial may differ in."""
    found = {path.name: json.loads(path.read_text()) for path in sorted((folder / "trials").glob("*.json"))}
    return {n: {key: v for key, v in r.items() if key not in ("costs", "host")} for n, r in found.items()}


def state(folder: Path) -> dict[str, tuple[str, int]]:
    """Relative path -> (sha256, mtime) of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }
