"""What a task's ``prepare.py`` reads from: a pinned wheel, a data set of the hub, files of the task's folder."""

from __future__ import annotations

import fnmatch
import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from harness.data.sources import hub_data, wheels
from harness.data.tasks.spec import Task
from harness.errors import InputError, unknown_name


class Source:
    """The argument of ``rows(source)``.

    A wheel is downloaded and verified on first use, and its members are read inside the zip; a data set of the hub is
    loaded on first use, at its locked revision.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._archive: zipfile.ZipFile | None = None
        self._loaded: Mapping[str, Any] | None = None

    def names(self, pattern: str) -> list[str]:
        """The wheel's members that match a shell pattern, sorted."""
        return sorted(name for name in self._open().namelist() if fnmatch.fnmatchcase(name, pattern))

    def text(self, member: str, encoding: str = "utf-8") -> str:
        """A member of the wheel as text."""
        return self._open().read(member).decode(encoding)

    def jsonl(self, member: str) -> Iterator[dict]:
        """The rows of a JSONL member of the wheel."""
        return (json.loads(line) for line in self.text(member).split("\n") if line.strip())

    def split(self, name: str) -> Iterator[dict]:
        """The rows of one split of the hub's data set, as plain dictionaries, in its order."""
        data, where = self._task.hub, self._task.where("metadata.source")
        if data is None:
            remedy = "declare {hub, splits}, or read another source"
            raise InputError("names no data set of the hub", where=where, remedy=remedy)
        if name not in data.splits:
            raise unknown_name("split", name, data.splits, where=f"{where}.splits")
        if self._loaded is None:
            self._loaded = hub_data.load(data, where)
        return hub_data.rows(data, self._loaded, name, where)

    def file(self, name: str) -> str:
        """A file of the task's folder as text."""
        return (self._task.folder / name).read_text(encoding="utf-8")

    def _open(self) -> zipfile.ZipFile:
        if self._archive is None:
            if self._task.wheel is None:
                remedy = "declare {wheel, sha256, members}, or use source.file for a file of the folder"
                raise InputError("names no wheel to read", where=self._task.where("metadata.source"), remedy=remedy)
            self._archive = zipfile.ZipFile(wheels.ensure_wheel(self._task.wheel))
        return self._archive
