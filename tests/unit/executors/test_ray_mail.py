"""What workers that don't see the results folder send home, while one of them ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from harness.executors.ray import mail as module
from harness.executors.ray.mail import Mail
from harness.executors.ray.post import Letter

CONTENT = b"a boundary"


class Office:
    """All that is sent is taken at once, in order."""

    def __init__(self) -> None:
        self.letters: list[Letter] = []
        self.send = SimpleNamespace(remote=self.letters.append)
        self.take = SimpleNamespace(remote=lambda: self.letters)


@pytest.fixture
def office(monkeypatch):
    office = Office()

    def taken(letters: list[Letter]) -> list[Letter]:
        found = [*letters]
        letters.clear()
        return found

    monkeypatch.setattr(module, "open_office", lambda: office)
    monkeypatch.setattr(module.ray, "get", taken)
    monkeypatch.setattr(module.ray, "kill", lambda actor: None)
    return office


def running(name: str, attempt: int) -> Any:
    return SimpleNamespace(job=SimpleNamespace(name=name), attempt=attempt)


@pytest.mark.parametrize(("attempt", "there"), [(1, True), (2, False)])  # of a first try that is thought dead
def test_who_ends_keeps_nobody_from_sending_a_checkpoint(attempt, there, office, tmp_path):
    jobs: Any = [SimpleNamespace(name=name, folder=tmp_path) for name in ("ends", "goes_on")]
    mail = Mail(jobs)
    office.send.remote(Letter("file", "goes_on", 1, "running/goes_on.safetensors", 0, CONTENT, len(CONTENT)))
    mail.settle(running("ends", 1), {"goes_on": running("goes_on", attempt)})
    mail.close()
    found = {path.name: path.read_bytes() for path in (tmp_path / "running").iterdir()}
    assert found == ({"goes_on.safetensors": CONTENT} if there else {})
