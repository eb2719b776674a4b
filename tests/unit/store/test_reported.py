"""A report is drawn anew where anything that it is made of, or it itself, has changed, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import QUICK, trial

from harness.report import build_report
from harness.store import reported, write_trial


@pytest.fixture
def folder(tmp_path) -> Path:
    """A trial and its report, of which note was taken."""
    write_trial(tmp_path, trial("lora", QUICK))
    page, figure = tmp_path / "report.html", tmp_path / "figures" / "one.png"
    figure.parent.mkdir()
    for file in (page, figure):
        file.write_text(file.name)
    reported.note_report(tmp_path, [page, figure], reported.sources(tmp_path), "lora wins.")
    return tmp_path


def test_a_report_current_answer_as_long_as_nothing_changes(folder):
    assert reported.current_answer(folder) == "lora wins."
    (folder / "base.json").write_text("{}")  # what a report does not read
    next((folder / "trials").glob("*.json")).touch()
    assert reported.current_answer(folder) == "lora wins."


@pytest.mark.parametrize(
    "name",
    ["report.html", "figures/one.png", "study.json", "tuning.json", "trials/x.json", "mitigation/all/scores.csv"],
)
def test_a_file_that_changes_makes_it_old(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("other")
    assert reported.current_answer(folder) is None


def test_an_answer_that_was_changed_is_not_told(folder):
    stamp = folder / reported.STAMP
    stamp.write_text(stamp.read_text().replace('"lora wins."', "5"))
    assert reported.current_answer(folder) is None


@pytest.mark.parametrize("name", ["report.html", "report.made.json"])
def test_a_file_that_is_gone_makes_it_old(folder, name):
    (folder / name).unlink()
    assert reported.current_answer(folder) is None


def test_a_record_that_is_gone_makes_it_old(folder):
    next((folder / "trials").glob("*.json")).unlink()
    assert reported.current_answer(folder) is None


def test_what_is_written_while_it_is_drawn_makes_it_old(folder):
    """A run may be writing records."""
    before = reported.sources(folder)
    write_trial(folder, trial("lora", QUICK, seed=1))
    reported.note_report(folder, [folder / "report.html"], before, "lora wins.")
    assert reported.current_answer(folder) is None


def test_a_report_is_noted_unless_it_is_mixed(folder):
    build_report(folder)
    assert reported.current_answer(folder)
    build_report(folder, allow_mixed=True)
    assert reported.current_answer(folder), "the same bytes, where nothing is mixed"
    (folder / reported.STAMP).unlink()
    build_report(folder, allow_mixed=True)
    assert reported.current_answer(folder) is None


def test_another_library_makes_it_old(folder, monkeypatch):
    monkeypatch.setattr(reported, "version", lambda name: "0")
    assert reported.current_answer(folder) is None


@pytest.mark.parametrize(
    "stamp",
    ["", "[]", "{}", '{"of": 1, "files": 2}', '{"of": "", "files": {}}', '{"of": "", "files": {}, "answer": ""}'],
)
def test_a_damaged_note_makes_it_old(folder, stamp):
    (folder / reported.STAMP).write_text(stamp)
    assert reported.current_answer(folder) is None
