"""The Hugging Face hub: whether it may be asked, and the lock.

A revision is resolved once and used from then on: ``lock.json`` holds the commits of models and of data sets.
"""

from __future__ import annotations

import json
import os
import re
from typing import Literal

from harness.data import files, paths
from harness.errors import InputError
from harness.reading import read_json

_COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT = 10  # seconds for the first answer; a machine without a network must hear so within seconds

Kind = Literal["models", "datasets"]


def offline(kind: Kind) -> str | None:
    """The environment variable that forbids asking the hub, or None."""
    switches = ("HF_HUB_OFFLINE", *(["HF_DATASETS_OFFLINE"] if kind == "datasets" else []))
    return next((name for name in switches if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")), None)


def locked(kind: Kind, name: str) -> str | None:
    """The commit of a name: the revision in it where that is a commit, else what the lock file says."""
    revision = name.partition("@")[2]
    return revision if _COMMIT.fullmatch(revision) else _read_lock().get(kind, {}).get(name)


def _read_lock() -> dict[str, dict[str, str]]:
    file = paths.lock_file()
    if not file.is_file():
        return {}
    remedy = "restore it from git, or delete it: the next fetch resolves the revisions anew"
    held = read_json(file, where=paths.shown(file), remedy=remedy)
    kinds = held.values() if isinstance(held, dict) else [None]
    if not all(isinstance(commits, dict) and all(map(_is_commit, commits.values())) for commits in kinds):
        raise InputError("not a lock file", where=paths.shown(file), remedy=remedy)
    return held


def _is_commit(value: object) -> bool:
    return isinstance(value, str) and value.isalnum()


def lock(kind: Kind, name: str, commit: str) -> None:
    """Write down the commit of a name, once."""
    commits = _read_lock()
    known = commits.get(kind, {})
    if _COMMIT.fullmatch(name.partition("@")[2]) or known.get(name) == commit:
        return
    commits[kind] = dict(sorted((known | {name: commit}).items()))
    text = json.dumps(dict(sorted(commits.items())), indent=2) + "\n"
    files.publish_file(lambda temporary: temporary.write_text(text, encoding="utf-8"), paths.lock_file())
