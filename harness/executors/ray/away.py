"""A job on a machine that does not see its results folder: it works in a folder of its own, and sends home what it
writes there.

Records, adapters, base scores and boundary checkpoints go as files, adapters before the records that they belong to;
progress goes as it is said, a log at the end.  What the job needs of its folder, the base's scores and a checkpoint, is
asked for first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from harness.errors import FolderError
from harness.executors.ray.post import CHUNK, Letter

AHEAD = 8  #: parts of a file that are under way at a time
SECONDS = 1.0  #: between two words of progress


@dataclass(frozen=True)
class Errand:
    """What a worker is told of the run beside a job."""

    token: Path  #: a file in the results folder, as the run sees it, which holds its own name
    attempt: int
    office: Any  #: the actor of :mod:`harness.executors.ray.post`

    def at_home(self) -> bool:
        """Whether this machine sees the run's folder, and not another of the same name."""
        try:
            return self.token.read_text(encoding="utf-8") == self.token.name
        except (OSError, ValueError):
            return False


@contextmanager
def borrowed_folder() -> Iterator[Path]:
    """A folder of this machine, for as long as a job takes.  Raises FolderError where there is no room for one."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="lorabench-"))
    except OSError as error:
        what = f"a worker that does not see the results folder has no room for one of its own: {error}"
        raise FolderError(what, where=tempfile.gettempdir(), remedy="free disk space on that machine") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Courier:
    """Carries files between the folder of a job here and the run's."""

    folder: Path
    job: str
    errand: Errand
    _sent: dict[str, tuple[int, int]] = field(default_factory=dict)  #: path -> its time and size when it was sent
    _said: float = -SECONDS

    def fetch(self, *paths: str) -> None:
        """Get these files of the run's folder, those that are there."""
        for path in paths:
            first = self._part(path, [0])[0]
            if first is None:
                continue
            content, size = first
            parts, offsets = [content], range(CHUNK, size, CHUNK)
            for start in range(0, len(offsets), AHEAD):
                parts += [part[0] for part in self._part(path, list(offsets[start : start + AHEAD])) if part]
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"".join(parts))
            self._sent[path] = _state(target.stat())

    def _part(self, path: str, offsets: list[int]) -> list[tuple[bytes, int] | None]:
        letters = [Letter("want", self.job, self.errand.attempt, path, offset) for offset in offsets]
        return ray.get([self.errand.office.want.remote(letter) for letter in letters])

    def say(self, content: bytes) -> None:
        """Pass progress on, unless there was some a moment ago; files with it."""
        now = time.monotonic()
        if now - self._said >= SECONDS:
            self._said = now
            self._send([Letter("progress", self.job, self.errand.attempt, content=content)])
            self.sync()

    def sync(self) -> None:
        """Send what is new here, and say what is gone."""
        records = self._new("trials/*.json")  # first: the adapter of a record that is there is there as well
        for path in [*self._new("adapters/*"), *self._new("running/*.safetensors"), *self._new("base.json"), *records]:
            with contextlib.suppress(FileNotFoundError):  # done with meanwhile
                self._send_file(path)
        for path in [path for path in self._sent if not (self.folder / path).exists()]:
            del self._sent[path]
            self._send([Letter("gone", self.job, self.errand.attempt, path)])

    def send_logs(self) -> None:
        """Send what the job has written into logs, once: at home that is put below what is there."""
        for path in self._new("logs/*.log"):
            self._send_file(path)

    def _new(self, pattern: str) -> list[str]:
        found = []
        for path in sorted(self.folder.glob(pattern)):
            with contextlib.suppress(FileNotFoundError):
                if not path.name.startswith(".") and self._sent.get(name := self._name(path)) != _state(path.stat()):
                    found.append(name)
        return found

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _send_file(self, path: str) -> None:
        with (self.folder / path).open("rb") as file:
            state = _state(os.fstat(file.fileno()))  # of what is read: a checkpoint may take its place at any moment
            size, letters = state[1], []
            for offset in range(0, max(size, 1), CHUNK):
                content = file.read(CHUNK)
                letters.append(Letter("file", self.job, self.errand.attempt, path, offset, content, size))
                if len(letters) == AHEAD:
                    self._send(letters)
                    letters = []
            self._send(letters)
        self._sent[path] = state

    def _send(self, letters: list[Letter]) -> None:
        ray.get([self.errand.office.send.remote(letter) for letter in letters])


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_mtime_ns, found.st_size
