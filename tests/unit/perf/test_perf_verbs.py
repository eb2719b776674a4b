"""``lorabench perf verbs``: what it times, and when it leaves the run out."""

from __future__ import annotations

import json
import sys

import pytest

from harness.errors import InputError
from harness.perf import verbs


@pytest.fixture
def asked(monkeypatch) -> list[list[str]]:
    """The commands that are timed; none is run."""
    seen: list[list[str]] = []
    monkeypatch.setattr(verbs, "cost", lambda words: seen.append(list(words)) or verbs.Cost(1.0, 0.5, 0.25))
    return seen


def test_the_medians_of_every_verb_are_written(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(verbs, "_complete", lambda of_study: True)
    verbs.main("smoke", tmp_path / "smoke", 3, tmp_path)
    told = json.loads((tmp_path / "verbs-cpu.json").read_text())
    assert list(told["verbs"]) == ["methods", "tasks", "studies", "plan", "status", "run"]
    assert told["verbs"]["plan"] == {"seconds": 1.0, "cpu_seconds": 0.5, "peak_gib": 0.25}
    assert len(asked) == 18
    assert ["run", "smoke", f"--out={tmp_path / 'smoke'}"] in asked


@pytest.mark.parametrize(
    ("told", "complete"),
    [
        ({"methods": [{"missing": 0, "error": 0, "oom": 0, "timeout": 0}], "changes": [], "damaged": {}}, True),
        ({"methods": [{"missing": 1, "error": 0, "oom": 0, "timeout": 0}], "changes": [], "damaged": {}}, False),
        ({"methods": [{"missing": 0, "error": 0, "oom": 0, "timeout": 0}], "changes": ["x"], "damaged": {}}, False),
        ({"methods": [], "changes": [], "damaged": {}}, False),
    ],
)
def test_a_run_is_timed_where_it_has_nothing_to_do(monkeypatch, told, complete):
    says = [sys.executable, "-c", f"print({json.dumps(json.dumps(told))})"]
    monkeypatch.setattr(verbs, "_command", lambda words: says)
    assert verbs._complete(["smoke"]) == complete


def test_a_command_costs_time_and_memory(monkeypatch):
    monkeypatch.setattr(verbs, "_command", lambda words: [sys.executable, "-c", "x = b'x' * 50_000_000"])
    held = bytearray(b"x" * 300_000_000)
    cost = verbs.cost([])
    assert cost.cpu_seconds > 0
    assert cost.seconds > 0
    assert 0.04 < cost.peak_gib < 0.2, "of the command, whatever this process holds"
    assert held


def test_a_verb_that_fails_is_no_time(monkeypatch):
    monkeypatch.setattr(verbs, "_command", lambda words: [sys.executable, "-c", "import sys; sys.exit('it broke')"])
    with pytest.raises(InputError, match="status 1: it broke"):
        verbs.cost(["plan"])
