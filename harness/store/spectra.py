"""Which file of the cache holds a base model's decompositions, looked up without loading the model.

The file is named by the weights as they are loaded (:mod:`harness.engine.spectra`), and torch and a model of 135M take
8 s to load.  So a note lies beside it, named by what is known before: ``<key>.json``, which says ``{"file": ...}``.  A
run's numbers rest on no note: one that is missing or wrong costs the next fetch those seconds, and until a run or fetch
has written it again, forecasts count what is there already.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from harness.store.files import write_json

#: What is decomposed and how: part of the name of every file and note, so that a change makes new ones.
VERSION = "thin svd fp64, v2"


@dataclass(frozen=True)
class Wanted:
    """The decompositions of one model's matrices, in the dtype that it runs in: of all those that an adapter adapts."""

    model_digest: str
    dtype: str
    targets: frozenset[str]

    @property
    def key(self) -> str:
        what = [VERSION, self.model_digest, self.dtype, sorted(self.targets)]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def find(cache: Path, wanted: Wanted) -> Path | None:
    """The file that the note names, or ``None``: no note, no file, or one that a run would make again."""
    try:
        path = cache / json.loads(_note(cache, wanted).read_text(encoding="utf-8"))["file"]
        with safe_open(path, framework="np") as file:  # reads the header, and sees a file that was cut off
            whole = (file.metadata() or {}).get("weights") == path.stem
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    return path if whole else None


def write_note(cache: Path, wanted: Wanted, file: Path) -> None:
    """Say that ``file``, in the cache and complete, is what is wanted."""
    write_json(_note(cache, wanted), {"file": file.name})


def _note(cache: Path, wanted: Wanted) -> Path:
    return cache / f"{wanted.key}.json"
