"""The folder of one study's results: ``trials/<fingerprint>.json`` and what says whose folder it is.

A trial is done when its file validates and is of one piece (:mod:`harness.store.consistency`).  A file that is not is
moved to ``quarantine/`` by name, never counted, and its trial runs again.  A finished trial, its record and its
adapter, is written once: nothing here replaces it.  A folder of another study or of a newer schema is refused, so that
nothing of it is lost; one that has lost its ``study.json`` is known by its records.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None

from harness.errors import InputError, LorabenchError
from harness.store.consistency import misfit_of_base
from harness.store.files import create_json, rename_new, write_json
from harness.store.lean import Lean, uncollected
from harness.store.published import PublishedRow, check_published, plain
from harness.store.records import FINAL, SCHEMA_VERSION, BaseRecord, TrialRecord
from harness.store.reference import Reference, check_reference
from harness.store.source_claims import SourceClaim, check_claims, plain_claims
from harness.store.trial_files import of_schema, read_trial, readable, trial_path

MANIFEST = "study.json"

T = TypeVar("T")


@dataclass(frozen=True)
class Readout:
    """What a results folder holds: valid records, damaged files, and what its plan expects."""

    records: list[TrialRecord]
    quarantined: Mapping[str, str] = field(default_factory=dict)  #: name of a damaged file -> what is wrong with it
    expected: dict[str, int] | None = None  #: arm -> trials of the plan; None where no plan was written
    published: tuple[PublishedRow, ...] = ()  #: others' numbers that the study names
    reference: Reference | None = None  #: whom its arms are compared with; None where no plan said so
    claims: tuple[SourceClaim, ...] = ()  #: sources' claims that the study names


@dataclass(frozen=True)
class Manifest:
    """What ``study.json`` says; ``expected`` is None where the file isn't there."""

    expected: dict[str, int] | None = None  #: arm -> trials of the plan
    published: tuple[PublishedRow, ...] = ()
    reference: Reference | None = None
    claims: tuple[SourceClaim, ...] = ()


# -- whose folder it is -----------------------------------------------------------------------------------------------


def open_results(
    folder: Path,
    study: str,
    expected: Mapping[str, int],
    published: Sequence[PublishedRow] = (),
    reference: Reference | None = None,
    claims: Sequence[SourceClaim] = (),
) -> None:
    """Make the folder this study's, or check that it is; for whoever holds its claim.

    Where ``study.json`` is lost, damaged or another's, the records decide: a folder whose finished trials are all of
    this study is this study's.  Raises :class:`InputError` for another's folder, and for one of a newer schema.
    """
    manifest = folder / MANIFEST
    if problem := _not_ours(folder, study):
        owners = {record.study for record in read_records(folder)[0]}
        if owners != {study}:
            raise problem
    content: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "study": study, "expected": dict(expected)}
    if reference:
        content["reference"] = reference.model_dump(mode="json")
    if published:
        content["published"] = plain(published)
    if claims:
        content["claims"] = plain_claims(claims)
    write_json(manifest, content)


def _not_ours(folder: Path, study: str) -> InputError | None:
    """Why ``study.json`` does not say that the folder is this study's; ``None`` where it does, or the folder is new."""
    manifest = folder / MANIFEST
    try:
        manifest_data = _read_manifest(manifest)
    except FileNotFoundError:
        if not any(folder.glob("trials/*.json")):
            return None
        what = f"there are trials here, but no {MANIFEST} that says whose they are"
        return InputError(what, where=str(folder), remedy="choose another folder with --out")
    except _DamagedError as error:
        return error
    if manifest_data.get("study") == study:
        return None
    what = f"this folder holds results of the study '{manifest_data.get('study')}', not '{study}'"
    return InputError(what, where=str(folder), remedy="choose another folder with --out")


class _DamagedError(InputError):
    """``study.json`` can't be read; that of a newer schema can, and is refused as what it is."""


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise _DamagedError(
            f"not readable as JSON: {error}", where=str(path), remedy="restore or remove this file"
        ) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not readable(version):
        raise of_schema("this folder was written with", version, path)
    return data


def check_schema(folder: Path) -> None:
    """Refuse a folder that a newer version has written; one whose ``study.json`` is lost or damaged is not refused."""
    with contextlib.suppress(FileNotFoundError, _DamagedError):
        _read_manifest(folder / MANIFEST)


# -- records ----------------------------------------------------------------------------------------------------------


def finished(folder: Path, fingerprint: str) -> bool:
    """Whether the trial has a valid record that is an answer."""
    record, _ = read_trial(trial_path(folder, fingerprint))
    return record is not None and record.status in FINAL


def write_trial(folder: Path, record: TrialRecord, keep: Callable[[], None] = lambda: None) -> bool:
    """Write a trial's record, unless it is finished: then nothing is changed, and False comes back.

    ``keep`` writes what belongs to it, its adapter; that comes first, so that a finished trial has both.  Of two
    processes that have run the same trial the first to write wins (a worker that is thought dead, and the retry of its
    pack).  A record of a failure gives way; a damaged file is moved to ``quarantine/``.
    """
    path = trial_path(folder, record.fingerprint)

    def write() -> bool:
        keep()
        for _ in range(3):
            if create_json(path, record.model_dump(mode="json")):
                return True
            if make_room(folder, path):
                return False
        what = "other processes keep writing this record"
        raise LorabenchError(what, where=str(path), remedy="run the study in one place at a time")

    return bool(unless_finished(folder, record.fingerprint, write))


def unless_finished(folder: Path, fingerprint: str, work: Callable[[], T]) -> T | None:
    """Do what belongs to a trial while nobody else does, unless it is finished: then nothing is done.

    Where file locks do not work, only the record is certain to be written once.
    """
    path = folder / "running" / f"{fingerprint}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        return None if finished(folder, fingerprint) else work()


def make_room(folder: Path, path: Path) -> bool:
    """Make room for a record; True where the one that is there is an answer, and stays.

    What gives way is looked at again after it has been moved: another may have replaced it.  That is right for two
    processes, a worker that is thought dead and the retry of its pack; of three that replace one failure, an answer
    may find its place taken when it is moved back, and goes to ``quarantine/``.
    """
    if finished(folder, path.stem):
        return True
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside.tmp")
    try:
        path.rename(aside)  # so that nobody can finish it between a look and its removal
    except FileNotFoundError:
        return False
    record, _ = read_trial(aside, path.stem)
    if record is not None and record.status in FINAL:
        if not rename_new(aside, path):
            move(aside, folder / "quarantine" / path.name)
        return True
    if record is None:
        move(aside, folder / "quarantine" / path.name)
    else:
        aside.unlink()
    return False


def read_trials(folder: Path, *, quarantine: bool = False, lean: bool = False) -> Readout:
    """Every valid record of the folder, by fingerprint; ``quarantine`` moves damaged files out of the way.

    With ``lean`` they are as :class:`harness.store.lean.Lean` makes them, for who holds ten thousand at once.
    """
    said = read_manifest(folder)
    records, damaged = read_records(folder, quarantine=quarantine, lean=lean)
    return Readout(records, damaged, said.expected, said.published, said.reference, said.claims)


def read_manifest(folder: Path) -> Manifest:
    """What ``study.json`` says: trials of the plan by arm, others' numbers and claims, whom arms are compared with."""
    path = folder / MANIFEST
    if not path.exists():
        return Manifest()
    manifest = _read_manifest(path)
    return Manifest(
        {str(arm): int(n) for arm, n in manifest.get("expected", {}).items()},
        check_published(manifest.get("published", ()), f"{path}:published"),
        check_reference(manifest.get("reference"), f"{path}:reference"),
        check_claims(manifest.get("claims", ()), f"{path}:claims"),
    )


def read_records(
    folder: Path, *, quarantine: bool = False, lean: bool = False
) -> tuple[list[TrialRecord], dict[str, str]]:
    """(valid records, what is wrong with each other file by its name), whatever ``study.json`` says."""
    records, damaged = [], {}
    made_lean = Lean()
    with uncollected():
        for path in sorted((folder / "trials").glob("*.json")):
            record, problem = read_trial(path)
            if record is None:
                damaged[path.name] = problem
            else:
                records.append(made_lean(record) if lean else record)
    if quarantine:
        set_aside(folder, damaged)
    return records, damaged


def read_some(folder: Path, fingerprints: Iterable[str]) -> Iterator[TrialRecord]:
    """The valid records among these, in order of fingerprint."""
    for fingerprint in sorted(fingerprints):
        record, _ = read_trial(trial_path(folder, fingerprint))
        if record is not None:
            yield record


def set_aside(folder: Path, damaged: Iterable[str]) -> None:
    """Move files of ``trials/`` that are no records, by name, to ``quarantine/``."""
    for name in damaged:
        move(folder / "trials" / name, folder / "quarantine" / name)


def move(path: Path, target: Path) -> None:
    """Move a file, under a further number where there is one of its name: what is put aside is never replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 10_000):
        place = target if number == 1 else target.with_name(f"{target.stem}.{number}{target.suffix}")
        if not place.exists():
            path.rename(place)
            return
    raise LorabenchError("too many files of one name", where=str(target), remedy="clear this folder")


# -- the base model ---------------------------------------------------------------------------------------------------


def base_path(folder: Path) -> Path:
    return folder / "base.json"


def read_base(folder: Path, key: str) -> BaseRecord | None:
    """The base model's scores, if they are there and belong to this key."""
    try:
        base = BaseRecord.model_validate_json(base_path(folder).read_bytes())
    except (OSError, ValidationError):
        return None
    if base.key != key or misfit_of_base(base):
        return None  # of another study or stack, or edited: the base is scored again
    return base


def write_base(folder: Path, base: BaseRecord) -> None:
    write_json(base_path(folder), base.model_dump(mode="json"))
