"""A verb with its parts timed, as `lorabench perf campaign` starts it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from harness.cli import traced_run


def test_what_it_times_is_there():
    for owner, name, _ in traced_run.parts_of_a_run():
        assert callable(getattr(owner, name)), name


def test_the_time_of_a_part_counts_where_it_fails_too():
    spent: dict[str, list[float]] = {"base": []}

    def slow() -> None:
        time.sleep(0.01)
        raise KeyError

    with pytest.raises(KeyError):
        traced_run._timed(slow, spent, "base")()
    (seconds,) = spent["base"]
    assert seconds >= 0.01


def test_it_says_what_the_verb_says_and_ends_as_it_does(tmp_path):
    command = [sys.executable, "-m", "harness.cli.traced_run", str(tmp_path / "parts.json"), "plan", "there-is-none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, "there-is-none" in done.stderr) == (2, True)
    spent = json.loads((tmp_path / "parts.json").read_text())
    (seconds,) = spent.pop("imports")
    assert seconds > 0
    assert spent == {part: [] for *_, part in traced_run.parts_of_a_run()}
    assert {"base", "packs", "decomposition", "report"} < spent.keys()
