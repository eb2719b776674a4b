"""The files of the standard continual-learning benchmark, as a clone of its repository has them.

    CL_Benchmark/<category>/<task>/{train,test,labels}.json

``train.json`` and ``test.json`` are lists of ``{"sentence", "label"}``, ``labels.json`` lists the labels.  The folder
is named by ``LORABENCH_CL_BENCHMARK=DIR``, or by the study that is at work (``cl_benchmark: DIR``): the folder itself,
or one that holds it.  What is read is checked, and never copied but into the cache.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError, clipped
from harness.reading import read_json

FOLDER = "CL_Benchmark"
VARIABLE = "LORABENCH_CL_BENCHMARK"
#: Files of a task that hold rows.
PARTS = ("train", "test")
#: What to do about files that are not the benchmark's.
REMEDY = f"name the folder {FOLDER} of a clone of the benchmark's repository, whole (tasks/README.md)"

_of_study: str | None = None


@dataclass(frozen=True)
class BenchmarkFiles:
    """Which files of the benchmark a task reads, and what their labels are called there."""

    path: str  #: ``category/task``
    labels: tuple[str, ...]  #: of the task's choices, in their order
    unlabelled: tuple[str, ...] = ()  #: what stands in the place of a label where nobody could tell

    @property
    def folder(self) -> Path:
        """Where they lie.  Raises InputError where no folder is named, or it is not there."""
        root = named()
        assert root is not None, "a task has files where their folder is named"
        if not root.is_dir():
            raise InputError("there is no such folder", where=_said(root), remedy=REMEDY)
        folder = (root / FOLDER if (root / FOLDER).is_dir() else root) / self.path
        if not folder.is_dir():
            what = f"there is no folder {self.path}, where {FOLDER} has one"
            raise InputError(what, where=_said(root), remedy=REMEDY)
        return folder


@dataclass(frozen=True)
class Rows:
    """The rows of one file of a task that have a label."""

    file: Path
    rows: tuple[tuple[str, int], ...]  #: (sentence, place of its label among the task's choices)
    without: int  #: further rows, whose label nobody could tell
    places: tuple[int, ...]  #: of ``rows`` in the file, from 1


def use(folder: str | None) -> None:
    """Take the files from the ``folder`` that the study at work names; None: from where the environment says."""
    global _of_study
    _of_study = folder


def named() -> Path | None:
    """The folder that is named, if any is; whether it is there has not been looked at."""
    chosen = _of_study or os.environ.get(VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else None


def _said(root: Path) -> str:
    """A folder as errors name it: with who has named it."""
    return f"cl_benchmark: {root}" if _of_study else f"{VARIABLE}={root}"


def identity(files: BenchmarkFiles) -> str:
    """What tells one version of a task's files from another, without reading them."""
    digest = hashlib.sha256()
    for path in sorted(files.folder.glob("*.json")):
        # A link that leads nowhere is refused when it is read.
        stat = path.stat() if path.exists() else path.lstat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def parts(files: BenchmarkFiles) -> tuple[str, ...]:
    """Those of ``train`` and ``test`` that are there, whatever they are: what is no file is refused when it is read."""
    folder = files.folder
    return tuple(part for part in PARTS if os.path.lexists(folder / f"{part}.json"))


def read(files: BenchmarkFiles) -> dict[str, Rows]:
    """The rows of those of ``train`` and ``test`` that are there, in the files' order.

    Raises InputError, with file and row, for what is no such file, for a label that ``labels.json`` lacks, and where
    neither is there or all rows have one label.
    """
    folder = files.folder
    labels = _labels(files, folder / "labels.json")
    there = parts(files)
    if not there:
        what = "there is neither train.json nor test.json"
        raise InputError(what, where=str(folder), remedy=f"complete the clone, or leave out what reads {files.path}")
    return {part: _read(folder / f"{part}.json", labels, files) for part in there}


def _labels(files: BenchmarkFiles, path: Path) -> dict[str, int]:
    """Label -> the place of its choice."""
    found = read_json(path, remedy=REMEDY)
    if not isinstance(found, list) or Counter(map(repr, found)) != Counter(map(repr, files.labels)):
        what = f"it lists {clipped(repr(found), 200)}, and the labels of {files.path} are {', '.join(files.labels)}"
        raise InputError(what, where=str(path), remedy=REMEDY)
    return {label: place for place, label in enumerate(files.labels)}


def _read(path: Path, labels: dict[str, int], files: BenchmarkFiles) -> Rows:
    found = read_json(path, remedy=f"{REMEDY}; this file may have been cut off")
    if not isinstance(found, list) or not found:
        raise InputError("it is no list of rows", where=str(path), remedy=REMEDY)
    rows, places = [], []
    for number, row in enumerate(found, start=1):
        sentence, label = _row(row, f"{path}: row {number}")
        if label in files.unlabelled:
            continue
        if label not in labels:
            what = f"the label {clipped(repr(label), 100)} is not in labels.json ({', '.join(labels)})"
            raise InputError(what, where=f"{path}: row {number}", remedy=REMEDY)
        rows.append((sentence, labels[label]))
        places.append(number)
    if len({label for _, label in rows}) < 2:
        one = next((repr(files.labels[label]) for _, label in rows), "none")
        raise InputError(
            f"all rows have one label ({one}), so there is nothing to tell apart", where=str(path), remedy=REMEDY
        )
    return Rows(path, tuple(rows), len(found) - len(rows), tuple(places))


def _row(row: Any, where: str) -> tuple[str, str]:
    values: Sequence[Any] = [row.get(key) for key in ("sentence", "label")] if isinstance(row, dict) else ()
    if not values or not all(isinstance(value, str) and value.strip() for value in values):
        what = f"it is {clipped(repr(row), 200)}, not a mapping with the texts 'sentence' and 'label'"
        raise InputError(what, where=where, remedy=REMEDY)
    try:
        values[0].encode("utf-8")
    except UnicodeEncodeError as error:  # JSON may write half a character of UTF-16, which no file can hold
        what = f"its sentence holds half a character, {values[0][error.start]!r}, at place {error.start}"
        raise InputError(what, where=where, remedy=REMEDY) from error
    return values[0], values[1]
