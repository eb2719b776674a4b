"""What a model bears, kept in the cache: packs need not try it again, and the plan of a study needs no torch for it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from harness.data import files, paths
from harness.data.models.folder import folder_digest
from harness.engine.model.verdict import Verdict
from harness.errors import LorabenchError

#: Whose change may change a verdict, below harness/engine.
SOURCES = ("adapters/layout.py", "generate.py", "model/**/*.py")


def kept_verdict(path: Path, dtype: str, device: str, targets: Sequence[str]) -> Verdict | None:
    """Of the model in this folder on this kind of device, if it was tried with these targets; ``dtype`` is a name."""
    try:
        return Verdict(**json.loads(_file(path, dtype, device, targets).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # not tried yet, or a torn file: try it


def keep_verdict(verdict: Verdict, path: Path, dtype: str, device: str, targets: Sequence[str]) -> None:
    """Where nothing can be written it is tried again next time."""
    text = json.dumps(asdict(verdict), indent=1)
    try:
        files.publish_file(
            lambda temporary: temporary.write_text(text, encoding="utf-8"), _file(path, dtype, device, targets)
        )
    except (LorabenchError, OSError):
        return


def _file(path: Path, dtype: str, device: str, targets: Sequence[str]) -> Path:
    key = [folder_digest(path), dtype, device, sorted(targets), _engine()]
    return paths.cache_dir() / "families" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.json"


@functools.cache
def _engine() -> list[str]:
    folder = Path(__file__).parents[1]  # harness/engine
    files_of = sorted(file for pattern in SOURCES for file in folder.glob(pattern))
    sources = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files_of]
    return [version("torch"), version("transformers"), *sources]
