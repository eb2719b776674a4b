"""A report that comes half-way says so wherever somebody may take a number from it; one of all trials does not."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from synthetic import QUICK, Folder, failed, quick, trial

from harness.report import build_index, write_report
from harness.store import write_trial
from harness.store.claims import claim
from harness.store.results import open_results

MARK = "Partial: 13 of 15 trials"


def half() -> Folder:
    """Two trials have no record; one has failed, which is an end, too."""
    readout = quick()
    gone = {("lora", 1), ("stable_lora", 2), ("self_distill", 0)}
    readout.records = [record for record in readout.records if (record.spec.arm, record.spec.seed) not in gone]
    readout.records.append(failed("self_distill", QUICK, seed=0))
    arms = {record.spec.arm for record in readout.records}
    assert readout.expected == dict.fromkeys(arms, 3)
    return readout


def read(folder: Path) -> tuple[str, str, list[dict[str, str]], str]:
    """(page, Markdown, board, LaTeX)"""
    page, markdown, tex = ((folder / name).read_text() for name in ("report.html", "report.md", "report.tex"))
    with (folder / "leaderboard.csv").open(newline="") as file:
        return page, markdown, list(csv.DictReader(file)), tex


def test_a_report_half_way_is_marked_everywhere(tmp_path):
    told: list[str] = []
    write_report(tmp_path, half(), latex=True, tell=told.append)
    page, markdown, board, tex = read(tmp_path)
    assert f"<title>quick ({MARK})" in page
    assert f"<h1>quick ({MARK})</h1>" in page
    assert f'<p class="banner" role="alert"><strong>{MARK}.</strong> The others have no record yet.' in page
    assert markdown.startswith(f"# quick ({MARK})\n\nBase model")
    assert f"\n> **{MARK}.** The others have no record yet." in markdown
    assert {row["partial"] for row in board} == {"yes"}
    assert f"\n% {MARK}." in tex.split(r"\begin")[0]
    assert told[0].startswith(f"{MARK} so far. ")
    assert {row["method"] for row in board if row["ranked"] == "yes"} == {"frozen", "lora_ema"}, "those that are whole"


def test_a_report_of_all_trials_has_no_mark(tmp_path):
    readout = quick()
    readout.records[-1] = failed(readout.records[-1].spec.arm, QUICK, seed=readout.records[-1].spec.seed)
    told: list[str] = []
    write_report(tmp_path, readout, latex=True, tell=told.append)
    page, markdown, board, tex = read(tmp_path)
    assert "Partial" not in page + markdown + tex + told[0]
    assert {row["partial"] for row in board} == {"no"}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "results" / "mine"
    open_results(place, "mine", {"lora": 3})
    for seed in range(2):
        write_trial(place, trial("lora", QUICK, seed=seed).model_copy(update={"study": "mine"}))
    return place


def test_while_a_run_is_at_work_a_report_is_asked_for_by_name(folder, in_process):
    with claim(folder):
        status, _, err = in_process("report", "mine")
        assert status == 2
        assert "is at work here" in err
        assert "--partial" in err
        assert not (folder / "report.html").exists()
        assert in_process("report", "mine", "--partial")[0] == 0
    assert "Partial: 2 of 3 trials" in (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    status, out, _ = in_process("report", "mine")
    assert status == 0
    assert out.startswith("Partial: 2 of 3 trials so far. ")
    assert "Partial: 2 of 3 trials" in (folder / "report.html").read_text(), "marked, whoever asks"


def test_the_index_marks_it_as_well(folder, tmp_path):
    assert "Partial: 2 of 3 trials so far. " in build_index(tmp_path / "results").read_text()
