"""Data sets of the Hugging Face hub, at the revision that ``lock.json`` holds, or from a mirror on this machine.

``LORABENCH_DATASETS=DIR`` names a folder of copies: ``DIR/org/name`` is what ``hf download --repo-type dataset
org/name --local-dir DIR/org/name`` makes, and is used instead of the hub where it is there.  Code that a data set
brings along is never run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.data import paths
from harness.data.sources import hub
from harness.errors import InputError

_MEDIA = ("Image(", "Audio(", "Video(", "Pdf(", "Nifti(", "Mesh(")


@dataclass(frozen=True)
class HubData:
    """A data set of the hub, and what is read of it."""

    repo: str  #: ``org/name``
    config: str | None = None
    splits: tuple[str, ...] = ()  #: those that are read, by their names in the data set
    revision: str | None = None  #: a branch that is asked for; None is the main one
    reader: str | None = None  #: ``json``, ``csv``: single files of the repository, read by this
    options: Mapping[str, Any] = field(default_factory=dict)  #: further arguments of ``datasets.load_dataset``

    def __str__(self) -> str:
        return f"{self.repo} ({self.config})" if self.config else self.repo

    @property
    def key(self) -> str:
        """Its name in the lock file."""
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def mirror(data: HubData) -> Path | None:
    """The copy of the data set's repository on this machine, or None."""
    chosen = os.environ.get("LORABENCH_DATASETS")
    folder = Path(chosen).expanduser().absolute() / data.repo if chosen else None
    return folder if folder is not None and folder.is_dir() else None


def identity(data: HubData) -> str:
    """What tells one version of the data from another: a commit, or a mirror's files; empty where neither is known."""
    folder = mirror(data)
    if folder is None:
        return hub.locked("datasets", data.key) or ""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))
    digest = hashlib.sha256()
    for path in files:
        stat = path.stat()
        digest.update(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _hidden(path: Path) -> bool:
    """What ``hf download`` keeps for itself (``.cache``) or git does."""
    return any(part.startswith(".") for part in path.parts)


def rows(data: HubData, loaded: Mapping[str, Any], split: str, where: str) -> Iterator[dict]:
    """The rows of one split, in the data set's order.  Raises InputError for pictures, sound and the like."""
    dataset = loaded[split]
    if media := [name for name, kind in dataset.features.items() if any(word in repr(kind) for word in _MEDIA)]:
        what = f"the data set {data} has no plain rows: {', '.join(media)} hold pictures, sound or documents"
        raise InputError(what, where=where, remedy="choose a task about text")
    yield from (dict(row) for row in dataset)


def load(data: HubData, where: str) -> Mapping[str, Any]:
    """The splits that ``data`` names, as ``datasets.Dataset``.

    Raises InputError, with ``where``, where the data can't be reached or lack a split.
    """
    folder = mirror(data)
    commit = _commit(data, where) if folder is None else None
    place, options = data.repo, dict(data.options)
    if data.reader:
        base = folder or f"hf://datasets/{data.repo}@{commit}"
        options["data_files"] = {split: f"{base}/{file}" for split, file in data.options["data_files"].items()}
        place, commit = data.reader, None
    elif folder is not None:
        place = str(folder)
    import datasets

    try:
        # A folder for each version: datasets does not see that a file of a local folder has changed.
        cache = paths.cache_dir() / "datasets" / identity(data)[:16]
        loaded = datasets.load_dataset(place, data.config, revision=commit, cache_dir=str(cache), **options)
    except Exception as problem:
        # datasets, huggingface_hub, pyarrow and fsspec each raise custom errors here
        what = f"the data set {data} can't be read: {type(problem).__name__}: {str(problem).strip()[:300]}"
        remedy = f"correct the copy in {folder}" if folder else _remedy(data)
        raise InputError(what, where=where, remedy=remedy) from problem
    for split in data.splits:
        if split not in loaded or not len(loaded[split]):
            what = f"the data set {data} has no rows in a split '{split}'"
            raise InputError(what, where=where, remedy=f"its splits: {', '.join(loaded) or 'none'}")
    return loaded


def _commit(data: HubData, where: str) -> str:
    """The locked commit, or the newest one, which is locked now.

    A locked one is asked for too: one request with a time limit, where ``datasets`` would try again and again.
    """
    if switch := hub.offline("datasets"):
        raise InputError(f"needs the data set {data} of the hub: {switch} is set", where=where, remedy=_remedy(data))
    from huggingface_hub import HfApi

    known = hub.locked("datasets", data.key)
    try:
        commit = HfApi().dataset_info(data.repo, revision=known or data.revision, timeout=hub.TIMEOUT).sha
    except Exception as problem:
        why = f"{type(problem).__name__}: {str(problem).strip()[:300]}"
        what = f"needs the data set {data} of the hub: {why}"
        raise InputError(what, where=where, remedy=_remedy(data)) from problem
    if commit is None:
        what = f"needs the data set {data} of the hub: it names no commit"
        raise InputError(what, where=where, remedy=_remedy(data))
    hub.lock("datasets", data.key, commit)
    return commit


def _remedy(data: HubData) -> str:
    return (
        "run `lorabench fetch STUDY` where the hub can be reached; or copy the data set "
        f"(hf download --repo-type dataset {data.repo} --local-dir DIR/{data.repo}) and set LORABENCH_DATASETS=DIR"
    )
