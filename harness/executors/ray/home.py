"""The results folder's side of workers that don't see it: what they send is put where they would have put it.

By the same rules: a finished trial, its record and its adapter, is written once, whoever comes first.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from harness.errors import FolderError, LorabenchError
from harness.store.records import BaseRecord, TrialRecord
from harness.store.results import unless_finished, write_base, write_trial

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
KNOWN = re.compile(rf"base\.json|trials/{NAME}\.json|logs/{NAME}\.log|(?:adapters|running)/{NAME}\.safetensors")


@dataclass
class Arriving:
    """A file of which some parts are here."""

    place: Path
    received: int = 0


@dataclass
class Home:
    """One results folder, and what is on its way to it."""

    folder: Path
    _arriving: dict[tuple[str, int, str], Arriving] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Put a file there by which a worker sees whether it sees this folder."""
        self.token = self.folder / "running" / f".tmp-{secrets.token_hex(8)}"
        with self._written():
            self.token.parent.mkdir(parents=True, exist_ok=True)
            self.token.write_text(self.token.name, encoding="utf-8")

    def close(self) -> None:
        for path in (self.token, *(each.place for each in self._arriving.values())):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def read(self, path: str, offset: int, longest: int) -> tuple[bytes, int] | None:
        """A part of a file, and the size of all of it; None where there is none."""
        if not KNOWN.fullmatch(path):
            return None
        try:
            with (self.folder / path).open("rb") as file:
                size = file.seek(0, 2)
                file.seek(offset)
                return file.read(longest), size
        except OSError:
            return None

    def receive(self, sender: tuple[str, int], path: str, offset: int, content: bytes, size: int) -> None:
        """Take a part of a file, in whatever order; the last one puts it in its place."""
        if not KNOWN.fullmatch(path):
            return
        with self._written():
            if (*sender, path) not in self._arriving:
                self._arriving[*sender, path] = Arriving(self._new_file())
            arriving = self._arriving[*sender, path]
            with arriving.place.open("r+b") as file:
                file.seek(offset)
                file.write(content)
            arriving.received += len(content)
            if arriving.received < size:
                return
            del self._arriving[*sender, path]
            try:
                self._put(arriving.place, path)
            finally:
                arriving.place.unlink(missing_ok=True)

    def forget(self, path: str) -> None:
        """Remove a checkpoint that its pack has no more use for."""
        if KNOWN.fullmatch(path) and path.startswith("running/"):
            with self._written():
                (self.folder / path).unlink(missing_ok=True)

    def _new_file(self) -> Path:
        path = self.folder / "running" / f".tmp-{secrets.token_hex(8)}"
        path.touch()
        return path

    def _put(self, place: Path, path: str) -> None:
        kind, _, name = path.rpartition("/")
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if kind == "trials":
                write_trial(self.folder, TrialRecord.model_validate_json(place.read_bytes()))
            elif kind == "adapters":
                trial = Path(name).stem.partition("-task")[0]
                unless_finished(self.folder, trial, lambda: place.replace(target))
            elif kind == "logs":
                with target.open("ab") as file:
                    file.write(place.read_bytes())
            elif kind == "running":
                place.replace(target)
            else:
                write_base(self.folder, BaseRecord.model_validate_json(place.read_bytes()))
        except ValidationError as error:
            raise LorabenchError(
                f"a worker has sent a record that is none: {error.errors()[0]['msg']}",
                where=str(target),
                remedy="install the same version of lorabench on every node of the Ray cluster",
            ) from error

    @contextlib.contextmanager
    def _written(self):
        try:
            yield
        except OSError as error:
            raise FolderError(
                f"what workers have sent can't be written: {error.strerror or error}",
                where=str(error.filename or self.folder),
                remedy="free disk space or make the folder writable, then run this again: finished trials are kept",
            ) from error
