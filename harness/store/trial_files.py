"""One trial's file: read, migrated where it is older, checked, and said what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import InputError, clipped
from harness.store.consistency import misfit
from harness.store.migrations import migrate
from harness.store.records import SCHEMA_VERSION, TrialRecord, TrialSpec


def trial_path(folder: Path, fingerprint: str) -> Path:
    return folder / "trials" / f"{fingerprint}.json"


def read_trial(path: Path, name: str | None = None) -> tuple[TrialRecord | None, str]:
    """(the record, or None where the file is damaged; what is wrong with it), under the ``name`` it should have.

    A record of an older schema is migrated.  Raises :class:`InputError` for one of a newer schema.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        return None, _no_record(error)
    try:
        record = TrialRecord.model_validate_json(text)  # of this schema, as nearly always; anything else takes longer
    except ValueError:
        record, problem = _read_slowly(path, text)
        if record is None:
            return None, problem
    if record.fingerprint != (name or path.stem):
        return None, f"it is the record of trial {record.fingerprint}"
    try:
        problem = misfit(record)
    except ValueError as error:  # what is no JSON, such as NaN, somewhere in the settings
        problem = _not_ours(error)
    return (None, problem) if problem else (record, "")


class Identity(BaseModel):
    """What a record is of."""

    model_config = ConfigDict(frozen=True)

    schema_version: Annotated[int, Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]  #: another may have another spec
    fingerprint: str
    spec: TrialSpec


def read_identities(folder: Path, fingerprints: Iterable[str]) -> Iterator[Identity | TrialRecord]:
    """What the records of these fingerprints, found valid before, are of: a fifth of the time that all of them takes.

    They come in order of fingerprint; those that are gone by now are left out.
    """
    for fingerprint in sorted(fingerprints):
        path = trial_path(folder, fingerprint)
        try:
            yield Identity.model_validate_json(path.read_bytes())
        except (OSError, ValueError):  # of an older schema
            record, _ = read_trial(path)
            if record is not None:
                yield record


def _read_slowly(path: Path, text: bytes) -> tuple[TrialRecord | None, str]:
    """A record of whatever schema, or what is wrong with it in the words of that schema."""
    try:
        data = json.loads(text.decode("utf-8"))
        version = data["schema_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return None, _no_record(error)
    if not readable(version):
        raise of_schema("this record has", version, path)
    try:
        return TrialRecord.model_validate(migrate(data)), ""
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return None, _not_ours(error)


def readable(version: object) -> bool:
    return isinstance(version, int) and 1 <= version <= SCHEMA_VERSION


def of_schema(what: str, version: object, path: Path) -> InputError:
    return InputError(
        f"{what} schema {version}; this version reads up to schema {SCHEMA_VERSION}",
        where=str(path),
        remedy="use the version of lorabench that wrote it, or choose another folder with --out",
    )


def _no_record(error: Exception) -> str:
    return f"not a record: {clipped(str(error), 200)}"


def _not_ours(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        what = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    else:
        what = f"{type(error).__name__}: {error}"
    return f"not a record of ours: {clipped(what, 200)}"
