"""The log of a pack: what it did when, what it printed, how it ended; one below the other where it is tried again."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import campaigns
import pytest
from broken_methods import Raises, updating

from harness.method import registry
from harness.running import pack_log
from harness.running.pack_log import log_path, logged, note

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@dataclass(frozen=True)
class Small:
    folder: Path
    name: str = "abc"
    number: int | None = 7
    about: str = "pack 7"


def lines(job: Small) -> list[str]:
    """Without the time that stands before each of ours."""
    return [re.sub(f"^{TIME}", "", line) for line in log_path(job).read_text().splitlines()]


def test_a_log_says_what_was_done_and_how_fast(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pack_log.time, "monotonic", lambda: now[0])
    job = Small(tmp_path)
    with logged(job) as log:
        log.report("loading", {})
        for step in range(100):
            log.report("training", {"step": step, "steps": 100.0, "tokens_per_second": 1234.5, "memory_gib": 1.25})
            now[0] += 1
        log.report("scoring", {})
    assert log_path(job) == tmp_path / "logs" / "pack-0007-abc.log"
    assert re.match(TIME, log_path(job).read_text())
    begins, *rest = lines(job)
    assert begins.startswith("pack 7: begins in process ")
    training = [f"training  step {step}/100  1,234 tokens/s  1.2 GiB" for step in (0, 30, 60, 90)]
    assert rest == ["loading", *training, "scoring"]


def test_what_python_prints_goes_both_ways(tmp_path, capsys):
    job = Small(tmp_path)
    handler = None
    with logged(job):
        handler = logging.StreamHandler()  # as libraries make theirs when they are imported, for the life of a process
        print("to stdout")
        print("to stderr", file=sys.stderr)
    print("afterwards")
    handler.emit(logging.makeLogRecord({"msg": "between"}))
    with logged(other := Small(tmp_path, "next")):
        handler.emit(logging.makeLogRecord({"msg": "of the next"}))
    out, err = capsys.readouterr()
    assert out == "to stdout\nafterwards\n"
    assert "to stderr\n" in err
    assert err.endswith("between\nof the next\n")
    printed = ("to stdout", "to stderr", "between", "afterwards")
    assert [line for line in lines(job) if line in printed] == ["to stdout", "to stderr"]
    assert lines(other)[1:] == ["of the next"]


def test_a_second_try_and_a_death_stand_below_the_first(tmp_path):
    job = Small(tmp_path)
    with pytest.raises(KeyboardInterrupt), logged(job):
        raise KeyboardInterrupt("enough")
    note(job, "failed, error: training: the worker was killed")
    with logged(job) as log:
        log.say("ended: done")
    said = [line.partition(" in process")[0] for line in lines(job)]
    assert said == [
        "pack 7: begins", "stopped: KeyboardInterrupt: enough", "failed, error: training: the worker was killed",
        "pack 7: begins", "ended: done",
    ]  # fmt: skip


def test_a_method_that_prints_without_end_fills_no_disk(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pack_log, "LARGEST", 10_000)
    job = Small(tmp_path)
    with logged(job):
        for _ in range(1000):
            print("x" * 100)
    assert log_path(job).stat().st_size < 11_200
    assert lines(job)[-1] == "(the rest of this log is left out)"
    assert len(capsys.readouterr().out) == 101_000


def test_a_log_that_can_not_be_written_costs_nothing_else(tmp_path, capsys):
    (tmp_path / "logs").write_text("a file")
    with logged(Small(tmp_path)) as log:
        print("goes on")
        log.report("training", {})
    note(Small(tmp_path), "x")
    assert capsys.readouterr().out == "goes on\n"


def test_every_pack_of_a_run_has_its_log(tmp_path, in_shared_cache, monkeypatch):
    whole = registry.methods()
    monkeypatch.setattr(registry, "methods", lambda: whole | {"raises": updating(Raises)})
    study = campaigns.TOY | {"methods": {"lora": {}, "raises": {}}, "pack": 1, "training": {"examples": 16, "batch": 8},
                             "scoring": {"items": 8, "curve": []}}  # fmt: skip
    found = campaigns.load(campaigns.write_study(tmp_path, study), tmp_path / "out")
    campaigns.run(found)
    logs = {path.name: path.read_text() for path in (tmp_path / "out" / "logs").iterdir()}
    one, two = (f"pack-{number:04}-{pack.name}.log" for number, pack in enumerate(found.plan.packs, 1))
    arms = {pack.trials[0].spec.arm: name for pack, name in zip(found.plan.packs, (one, two), strict=True)}
    done, broken = logs[arms["lora"]], logs[arms["raises"]]
    assert "(1 trial: lora), cpu: begins" in done
    assert re.search("task 2/2: training .* GiB\n.* task 2/2: scoring .* GiB\n", done)
    assert done.endswith("ended: done\n")
    assert "failed, error: " in broken
    assert "Traceback (most recent call last)" in broken
    assert broken.endswith("ended: error\n")
