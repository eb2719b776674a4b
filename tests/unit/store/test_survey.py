"""A folder in a line a record: what is noted of a file is taken for that very file, and nothing damaged hides."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from test_consistency import record

from harness.errors import InputError
from harness.store import survey as module
from harness.store.records import Failure
from harness.store.results import trial_path, write_trial
from harness.store.survey import Entry, Survey, survey

OLD = time.time() - 3600


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Three records, written an hour ago, in a folder that is large enough for notes; its clock's ticks are short."""
    monkeypatch.setattr(module, "LEAST", 2)
    monkeypatch.setattr(module, "TICK", 0)
    for seed in range(3):
        write_trial(tmp_path / "out", record(seed))
        os.utime(trial_path(tmp_path / "out", record(seed).fingerprint), (OLD, OLD))
    time.sleep(0.05)  # the time of a file's entry can't be set
    return tmp_path / "out"


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Names of the files that are read."""
    names, real = [], module.read_trial

    def counted(path, name=None):
        names.append(path.name)
        return real(path, name)

    monkeypatch.setattr(module, "read_trial", counted)
    return names


def names() -> list[str]:
    return sorted(record(seed).fingerprint for seed in range(3))


def test_a_folder_is_surveyed(folder, tmp_path):
    failure = Failure(phase="p", message="m")
    write_trial(folder, record(7, status="error", failure=failure, tasks={}, probes={}, curves=(), intruders=()))
    (folder / "trials" / "x.json").write_text("{")
    found = survey(folder, tmp_path / "cache")
    assert found.entries[record(0).fingerprint] == Entry("s", "lora", "ok")
    assert sorted(entry.status for entry in found.entries.values()) == ["error", "ok", "ok", "ok"]
    assert list(found.damaged) == ["x.json"]


def test_no_folder_is_an_empty_survey(tmp_path):
    assert survey(tmp_path / "none", tmp_path / "cache") == Survey({}, {})


def test_what_has_not_changed_is_not_read_again(folder, tmp_path, read):
    first = survey(folder, tmp_path / "cache")
    assert sorted(read) == [f"{name}.json" for name in names()]
    read.clear()
    assert survey(folder, tmp_path / "cache") == first
    assert read == []


@pytest.mark.parametrize("edit", ["score", "size", "replaced", "same size and time", "removed"])
def test_a_change_of_any_kind_is_seen(folder, tmp_path, edit):
    survey(folder, tmp_path / "cache")
    path = trial_path(folder, record(1).fingerprint)
    before, stat = path.read_text(), path.stat()
    if edit == "removed":
        path.unlink()
    elif edit == "replaced":
        (folder / "new").write_text(before.replace('"acc"', '"axx"'))
        (folder / "new").replace(path)
    else:
        path.write_text(before.replace("0.7", "0.8") + ("\n" if edit == "size" else ""))
    if edit == "same size and time":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    found = survey(folder, tmp_path / "cache")
    assert (path.stem in found.entries) == (edit == "replaced")
    assert list(found.damaged) == ([] if edit in ("replaced", "removed") else [path.name])


def test_damage_is_read_and_named_every_time(folder, tmp_path, read):
    path = trial_path(folder, record(1).fingerprint)
    path.write_text("{")
    os.utime(path, (OLD, OLD))
    for _ in range(2):
        read.clear()
        assert list(survey(folder, tmp_path / "cache").damaged) == [path.name]
        assert path.name in read


def test_a_file_of_this_moment_is_read_again(folder, tmp_path, monkeypatch, read):
    """Its clock may stand still between a write and the next."""
    monkeypatch.setattr(module, "TICK", 2_000_000_000)
    survey(folder, tmp_path / "cache")
    read.clear()
    survey(folder, tmp_path / "cache")
    assert len(read) == 3


@pytest.mark.parametrize("notes", ["", "[]", "{", '{"code": 1}', '{"code": null, "files": 5}', "\x00"])
def test_notes_that_are_none_cost_only_time(folder, tmp_path, notes, read):
    first = survey(folder, tmp_path / "cache")
    (place,) = (tmp_path / "cache" / "records").iterdir()
    place.write_text(notes)
    assert survey(folder, tmp_path / "cache") == first
    assert len(read) == 6


def test_notes_of_other_code_are_not_taken(folder, tmp_path, read):
    survey(folder, tmp_path / "cache")
    (place,) = (tmp_path / "cache" / "records").iterdir()
    place.write_text(json.dumps({**json.loads(place.read_text()), "code": "other"}))
    survey(folder, tmp_path / "cache")
    assert len(read) == 6


def test_a_cache_that_cannot_be_written_is_no_error(folder, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert len(survey(folder, tmp_path / "cache").entries) == 3


def test_a_small_folder_leaves_nothing_in_the_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LEAST", 4)
    survey(folder, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_newer_record_is_refused(folder, tmp_path):
    path = trial_path(folder, record(1).fingerprint)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(InputError, match="schema 99"):
        survey(folder, tmp_path / "cache")
