"""How far a run is, as another process reads it: what a run at work says, and nothing of one that is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from harness.store import claims, owners, standing
from harness.store.claims import at_work, claim
from harness.store.standing import JobStanding, Standing, read_standing, standing_path, write_standing

SAID = Standing(study="mine", packs=3, done=1, share=0.5, jobs=(JobStanding(name="a", number=2, what="training"),))


def test_what_a_run_says_is_read_while_it_holds_the_folder(tmp_path):
    assert read_standing(tmp_path) is None
    with claim(tmp_path):
        assert read_standing(tmp_path) is None
        write_standing(tmp_path, SAID)
        assert read_standing(tmp_path) == SAID
        assert at_work(tmp_path).pid == os.getpid()
    assert standing_path(tmp_path).exists()
    assert read_standing(tmp_path) is None, "its run is over"


def test_a_killed_run_says_nothing_any_more(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from harness.store.claims import claim\n"
        "held = claim(Path(sys.argv[1])); held.__enter__(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    write_standing(tmp_path, SAID)
    assert list((tmp_path / "running" / ".claim").iterdir())
    assert read_standing(tmp_path) is None


@pytest.mark.parametrize("beats", [True, False])
def test_a_run_of_another_machine_is_known_by_its_beat(tmp_path, monkeypatch, beats):
    monkeypatch.setattr(claims, "BEAT", 0.5)
    monkeypatch.setattr(owners, "lives", lambda owner, path: None)
    slot = tmp_path / "running" / ".claim"
    slot.mkdir(parents=True)
    mine = slot / "a.json"
    mine.write_text(owners.this_process(None).model_dump_json())
    write_standing(tmp_path, SAID)
    over = threading.Event()

    def beat() -> None:
        while beats and not over.wait(0.1):
            os.utime(mine)

    pulse = threading.Thread(target=beat)
    pulse.start()
    start = time.monotonic()
    assert read_standing(tmp_path) == (SAID if beats else None)
    assert time.monotonic() - start < 5
    over.set()
    pulse.join()


@pytest.mark.parametrize("content", ["", "[", "{}", '{"study": 3}', "\x00"])
def test_what_can_not_be_read_is_nothing(tmp_path, content):
    with claim(tmp_path):
        standing_path(tmp_path).write_text(content)
        assert read_standing(tmp_path) is None


def test_what_a_newer_version_says_more_is_left_out(tmp_path):
    with claim(tmp_path):
        said = SAID.model_dump(mode="json") | {"weather": "fine"}
        said["jobs"][0]["mood"] = "good"
        standing_path(tmp_path).write_text(json.dumps(said))
        assert read_standing(tmp_path) == SAID


def test_a_full_disk_costs_the_view_alone(tmp_path, monkeypatch):
    (tmp_path / "running").mkdir()
    write_standing(tmp_path, SAID)

    def full(self, *_) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(standing.Path, "write_text", full)
    write_standing(tmp_path, SAID.model_copy(update={"done": 2}))
    assert [path.name for path in (tmp_path / "running").iterdir()] == ["standing.json"]
    assert Standing.model_validate_json(standing_path(tmp_path).read_bytes()) == SAID
