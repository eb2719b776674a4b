"""How a results folder stands, a line a record, for verbs that need no scores: ten thousand in a second.

Every record is read and checked once, and noted in a file of the cache with its file's size, times and inode.  A note
is only taken for a file that has not changed since, by code that has not changed since; so what is noted is what
reading would say, and a lost or damaged cache costs nothing but the time.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

from harness.errors import LorabenchError
from harness.store.files import atomic_write
from harness.store.fingerprint import digest, source_digest
from harness.store.trial_files import read_trial

#: Folders of fewer records are read at once, and leave nothing in the cache.
LEAST = 200
#: Nanoseconds.  A file may change without a trace within one tick of its file system's clock: 2 s on FAT.
TICK = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """Whose a valid record is, and how its trial ended."""

    study: str
    arm: str
    status: str


@dataclass(frozen=True)
class Survey:
    """The records of a folder."""

    entries: Mapping[str, Entry]  #: by fingerprint, in order of it
    damaged: Mapping[str, str]  #: name of a file -> what is wrong with it


#: What tells whether a file has changed: size, time of its content, time of its entry, inode.
Stamp = tuple[int, int, int, int]
#: Name of a file with a valid record -> its stamp, and the record's entry.
Seen = dict[str, tuple[Stamp, Entry]]


def survey(folder: Path, cache: Path) -> Survey:
    """Every record of the folder; ``cache`` is where notes are kept.

    Raises :class:`InputError` for a record of a newer schema.
    """
    settled = time.time_ns() - TICK
    place = cache / "records" / f"{digest(str(folder.resolve()))[:32]}.json"
    files = dict(sorted(_files(folder / "trials")))
    known = _known(place) if len(files) >= LEAST else {}
    notes: Seen = {}
    damaged: dict[str, str] = {}
    for name, stamp in files.items():
        note = known.get(name)
        if note is None or note[0] != stamp:
            record, problem = read_trial(folder / "trials" / name)
            if record is None:
                damaged[name] = problem
                continue
            note = stamp, Entry(record.study, record.spec.arm, record.status)
        notes[name] = note
    if len(files) >= LEAST:
        sure = {name: note for name, note in notes.items() if max(note[0][1:3]) < settled}
        if sure != known:
            _write(place, sure)
    return Survey({name.removesuffix(".json"): entry for name, (_, entry) in notes.items()}, damaged)


def _files(folder: Path) -> Iterator[tuple[str, Stamp]]:
    """Names and stamps, taken before any file is read."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".json"):
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat()
                    yield entry.name, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@once
def _code() -> str:
    """A digest of what reads and checks records: other code may judge one otherwise."""
    return source_digest(Path(__file__).parent.glob("*.py"))


def _known(place: Path) -> Seen:
    """What was noted; nothing where that can't be read, or other code has noted it."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        data = json.loads(place.read_text(encoding="utf-8"))
        if data["code"] == _code():
            return {
                name: ((size, written, entered, inode), Entry(study, arm, status))
                for name, (size, written, entered, inode, study, arm, status) in data["files"].items()
            }
    return {}


def _write(place: Path, notes: Seen) -> None:
    plain = {name: [*stamp, entry.study, entry.arm, entry.status] for name, (stamp, entry) in notes.items()}
    with contextlib.suppress(LorabenchError):  # a cache that can't be written
        atomic_write(place, json.dumps({"code": _code(), "files": plain}))
