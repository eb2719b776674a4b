"""The folder of one study's results: ``trials/<fingerprint>.json`` and what says whose folder it is.

A trial is done when its file validates.  A file that does not is moved to ``quarantine/`` by name, never counted, and
its trial runs again; a folder of another study or of a newer schema is refused, so that nothing of it is lost.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from harness.errors import InputError
from harness.store.files import write_json
from harness.store.migrations import migrate
from harness.store.published import PublishedRow, check_published, plain
from harness.store.records import SCHEMA_VERSION, BaseRecord, TrialRecord

MANIFEST = "study.json"


@dataclass(frozen=True)
class Readout:
    """What a results folder holds: valid records, names of damaged files, and what its plan expects."""

    records: list[TrialRecord]
    quarantined: list[str] = field(default_factory=list)
    expected: dict[str, int] | None = None  #: arm -> trials of the plan; none where no plan was written
    published: tuple[PublishedRow, ...] = ()  #: others' numbers that the study names


def open_results(folder: Path, study: str, expected: Mapping[str, int], published: Sequence[PublishedRow] = ()) -> None:
    """Make the folder this study's, or check that it is; raises :class:`InputError` for another's."""
    manifest = folder / MANIFEST
    if manifest.exists():
        found = _read_manifest(manifest)
        if found.get("study") != study:
            raise InputError(
                f"this folder holds results of the study '{found.get('study')}', not '{study}'",
                where=str(folder),
                remedy="choose another folder with --out",
            )
    elif folder.exists() and any(folder.glob("trials/*.json")):
        raise InputError(
            f"there are trials here, but no {MANIFEST} that says whose they are",
            where=str(folder),
            remedy="choose another folder with --out",
        )
    content = {"schema_version": SCHEMA_VERSION, "study": study, "expected": dict(expected)}
    write_json(manifest, content | ({"published": plain(published)} if published else {}))


def _read_manifest(path: Path) -> dict:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"not readable as JSON: {error}", where=str(path), remedy="restore or remove this file"
        ) from error
    version = found.get("schema_version") if isinstance(found, dict) else None
    if not _readable(version):
        raise InputError(
            f"this folder was written with schema {version}; this version reads up to schema {SCHEMA_VERSION}",
            where=str(path),
            remedy="use the version of lorabench that wrote it, or choose another folder with --out",
        )
    return found


def trial_path(folder: Path, fingerprint: str) -> Path:
    return folder / "trials" / f"{fingerprint}.json"


def write_trial(folder: Path, record: TrialRecord) -> None:
    write_json(trial_path(folder, record.fingerprint), record.model_dump(mode="json"))


def read_trials(folder: Path, *, quarantine: bool = False) -> Readout:
    """Every valid record of the folder, by fingerprint; ``quarantine`` moves damaged files out of the way."""
    expected, published = None, ()
    if (folder / MANIFEST).exists():
        manifest = _read_manifest(folder / MANIFEST)
        expected = {str(arm): int(n) for arm, n in manifest.get("expected", {}).items()}
        published = check_published(manifest.get("published", ()), f"{folder / MANIFEST}:published")
    records, damaged = [], []
    for path in sorted((folder / "trials").glob("*.json")):
        record = _read_trial(path)
        if record is not None:
            records.append(record)
            continue
        damaged.append(path.name)
        if quarantine:
            target = folder / "quarantine" / path.name
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
    return Readout(records, damaged, expected, published)


def supersede(folder: Path, planned: Collection[str]) -> list[str]:
    """Move records that the study no longer asks for to ``superseded/``: it was edited, and a board shows one study."""
    moved = []
    for path in sorted((folder / "trials").glob("*.json")):
        if path.stem not in planned:
            target = folder / "superseded" / path.name
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
            moved.append(path.name)
    return moved


def _read_trial(path: Path) -> TrialRecord | None:
    """The record, or none where the file is damaged; of an older schema it is migrated, a newer one is refused."""
    try:
        data = json.loads(path.read_text())
        version = data["schema_version"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not _readable(version):
        raise InputError(
            f"this record has schema {version}; this version reads up to schema {SCHEMA_VERSION}",
            where=str(path),
            remedy="use the version of lorabench that wrote it, or choose another folder with --out",
        )
    try:
        record = TrialRecord.model_validate(migrate(data))
    except (ValueError, TypeError, KeyError, AttributeError):  # ValidationError is a ValueError
        return None
    return record if record.fingerprint == path.stem else None


def _readable(version: object) -> bool:
    return isinstance(version, int) and 1 <= version <= SCHEMA_VERSION


def base_path(folder: Path) -> Path:
    return folder / "base.json"


def read_base(folder: Path, key: str) -> BaseRecord | None:
    """The base model's scores, if they are there and belong to this key."""
    try:
        base = BaseRecord.model_validate_json(base_path(folder).read_bytes())
    except (OSError, ValidationError):
        return None
    return base if base.key == key else None


def write_base(folder: Path, base: BaseRecord) -> None:
    write_json(base_path(folder), base.model_dump(mode="json"))
