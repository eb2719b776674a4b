"""Boards whose arms are compared with something else than one arm `lora`."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from synthetic import QUICK, Folder, trial

from harness.report import leaderboard, write_report
from harness.report.study import gather
from harness.report.text.answer import answer
from harness.report.text.board import leaderboard_tables
from harness.store import read_trials, write_trial
from harness.store.records import TrialRecord
from harness.store.reference import Reference
from harness.store.results import open_results, read_manifest

SEEDS = range(8)
LOW, HIGH = "learning_rate=0.001", "learning_rate=0.002"


def records(*arms: str, lift: float = 0.0) -> list[TrialRecord]:
    """Trials of these arms with the rate that their setting names; ``lift`` is added to every score after a task."""
    made = []
    for arm in arms:
        for seed in SEEDS:
            record = trial(arm, QUICK, seed=seed)
            rate = float(arm.partition("learning_rate=")[2] or 5e-4)
            spec = record.spec.model_copy(update={"parameters": {"learning_rate": rate}})
            tasks = {
                name: scores.model_copy(update={"score": (scores.score[0], *(s + lift for s in scores.score[1:]))})
                for name, scores in record.tasks.items()
            }
            made.append(record.model_copy(update={"spec": spec, "fingerprint": spec.fingerprint, "tasks": tasks}))
    return made


@pytest.fixture
def grid() -> Folder:
    """Two methods at two rates; the higher rate is 5 points better in both."""
    low = records(f"lora@{LOW}", f"stable_lora@{LOW}")
    return Folder([*low, *records(f"lora@{HIGH}", f"stable_lora@{HIGH}", lift=0.05)])


def mean(study, name: str) -> float:
    return next(arm for arm in study.arms if arm.name == name).estimate("average_accuracy").mean


def test_a_grid_is_tested_at_equal_settings(grid):
    study = gather(grid)
    rows = {row.arm.name: row for row in leaderboard.rows(study)}
    partners = {name: row.partner.name if row.partner else None for name, row in rows.items()}
    assert partners == {
        f"lora@{LOW}": None, f"lora@{HIGH}": f"lora@{LOW}",
        f"stable_lora@{LOW}": f"lora@{LOW}", f"stable_lora@{HIGH}": f"lora@{HIGH}",
    }  # fmt: skip
    for name, row in rows.items():
        if partners[name]:
            assert row.difference.mean == pytest.approx(mean(study, name) - mean(study, partners[name]))
            assert row.p_holm is not None, "it is tested"


def test_the_page_says_who_is_compared_with_whom(grid, tmp_path):
    write_report(tmp_path, grid)
    text = (tmp_path / "report.md").read_text()
    assert f"- The reference is lora@{LOW}: it is the first of the 2 arms of lora." in text
    assert f"Compared at equal settings, not with the reference itself: stable_lora@{HIGH} with lora@{HIGH}." in text
    assert "plain LoRA" not in text, "no arm is"
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        named = {row["method"]: row["reference"] for row in csv.DictReader(file)}
    assert named[f"stable_lora@{HIGH}"] == f"lora@{HIGH}"
    page = (tmp_path / "report.html").read_text()
    head, body = (
        re.search(f"(?s)<{part}>.*?</{part}>", page[page.index('id="board"') :])[0] for part in ("thead", "tbody")
    )
    assert "Compared with</th>" in head
    cells = {len(re.findall(r"<t[hd]\b", row)) for row in re.findall("(?s)<tr.*?</tr>", body)}
    assert cells == {len(re.findall("<t[hd]\\b", head))}, "every row has a cell for every heading"


def test_a_reference_that_the_study_names(grid):
    name = f"stable_lora@{LOW}"
    grid.reference = Reference(arm=name, why="the study names it")
    study = gather(grid)
    board = leaderboard.rows(study)
    assert {row.partner.name for row in board if row.partner} == {name}
    assert f"Difference to {name}, points" in leaderboard_tables(board)[0].columns
    said = " ".join(answer(study, board))
    assert f"significantly above {name} (" in said
    assert "plain LoRA" not in said


def test_the_level_to_reach_is_that_of_the_reference(grid):
    """The better of the two has the higher gain: its 90 % are reached later, or by fewer."""
    shares = []
    for name in (f"lora@{LOW}", f"lora@{HIGH}"):
        grid.reference = Reference(arm=name, why="the study names it")
        made = [
            record if record.spec.arm != f"lora@{HIGH}" else record.model_copy(update={"curves": tuple(
                curve.model_copy(update={"score": (curve.score[0], *(s + 0.2 for s in curve.score[1:]))})
                for curve in record.curves)})
            for record in grid.records
        ]  # fmt: skip
        study = gather(Folder(made, reference=grid.reference))
        arm = next(arm for arm in study.arms if arm.name == f"stable_lora@{LOW}")
        shares.append(arm.estimate("examples_to_90_share").mean)
    assert shares[0] > shares[1]


def test_a_folder_remembers_its_reference(tmp_path):
    reference = Reference(arm=f"lora@{HIGH}", why="the study names it", partners={"a": "b"})
    open_results(tmp_path, "quick", {f"lora@{HIGH}": 8}, reference=reference)
    assert read_manifest(tmp_path).reference == reference
    for record in records(f"lora@{LOW}", f"lora@{HIGH}"):
        write_trial(tmp_path, record)
    readout = read_trials(tmp_path)
    assert gather(readout).reference.name == f"lora@{HIGH}"
    open_results(tmp_path, "quick", {f"lora@{HIGH}": 8})
    assert read_manifest(tmp_path).reference is None
    assert gather(read_trials(tmp_path)).reference.name == f"lora@{HIGH}", "the plan's first"
    assert gather(Folder(readout.records)).reference.name == f"lora@{LOW}"
    assert not Path(tmp_path / "superseded").exists()
