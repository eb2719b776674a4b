"""What a worker that does not see the results folder sends home while its pack goes on writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from harness.executors.ray.away import Courier, Errand
from harness.store.files import atomic_write


class Slow(Courier):
    """Between a file's opening and its way home another one takes its place."""

    def __init__(self, folder: Path, replaced: bytes) -> None:
        super().__init__(folder, "pack", Errand(folder / "token", 1, None))
        self.replaced: bytes | None = replaced
        self.letters: list[Any] = []

    def _send(self, letters: list[Any]) -> None:
        self.letters += letters
        if self.replaced is not None:
            atomic_write(self.folder / "running" / "pack.safetensors", self.replaced)
            self.replaced = None


def test_a_checkpoint_that_is_replaced_meanwhile_is_sent_again(tmp_path):
    atomic_write(tmp_path / "running" / "pack.safetensors", b"of the first boundary")
    courier = Slow(tmp_path, b"of the second one")
    courier.sync()
    courier.sync()
    courier.sync()
    assert [(letter.content, letter.size) for letter in courier.letters] == [
        (b"of the first boundary", 21),
        (b"of the second one", 17),
    ]


def test_what_is_sent_has_the_size_of_what_is_read(tmp_path, monkeypatch):
    path = tmp_path / "running" / "pack.safetensors"
    atomic_write(path, b"of the first boundary")
    courier = Slow(tmp_path, b"of the second one")
    courier.replaced, opened = None, Path.open

    def replaced_after(self: Path, *given: Any):
        file = opened(self, *given)
        if self == path and given == ("rb",):
            monkeypatch.setattr(Path, "open", opened)
            atomic_write(path, b"of the second one")
        return file

    monkeypatch.setattr(Path, "open", replaced_after)
    courier.sync()
    courier.sync()
    assert [(letter.content, letter.size) for letter in courier.letters] == [
        (b"of the first boundary", 21),
        (b"of the second one", 17),
    ]
