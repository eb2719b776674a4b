"""Records that a study no longer asks for: they lie in ``superseded/`` until it asks for them again."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from harness.store.files import rename_new
from harness.store.records import FINAL
from harness.store.results import finished, make_room, move
from harness.store.trial_files import read_trial, trial_path

SUPERSEDED = "superseded"


def supersede(folder: Path, planned: Collection[str]) -> list[str]:
    """Move records that the study no longer asks for to ``superseded/``: it was edited, and a board shows one study."""
    moved = [path for path in sorted((folder / "trials").glob("*.json")) if path.stem not in planned]
    for path in moved:
        move(path, folder / SUPERSEDED / path.name)
    return [path.name for path in moved]


def take_back(folder: Path, planned: Iterable[str]) -> list[str]:
    """Move records out of ``superseded/`` that the study asks for again; returns their fingerprints."""
    sources = returning(folder, planned)
    for fingerprint, source in sources.items():
        path = trial_path(folder, fingerprint)
        path.parent.mkdir(exist_ok=True)
        if not make_room(folder, path):
            rename_new(source, path)
    return list(sources)


def returning(folder: Path, planned: Iterable[str]) -> dict[str, Path]:
    """Trials that the study asks for, that have no finished record, and have one in ``superseded/``: where it lies."""
    there: dict[str, list[Path]] = {}
    for path in sorted((folder / SUPERSEDED).glob("*.json")):  # one that was put aside twice has a number
        there.setdefault(path.stem.partition(".")[0], []).append(path)
    sources = {}
    for fingerprint in planned:
        if fingerprint in there and not finished(folder, fingerprint):
            for path in there[fingerprint]:
                record, _ = read_trial(path, fingerprint)
                if record is not None and record.status in FINAL:
                    sources[fingerprint] = path
    return sources
