"""The board over studies: one page over everything in a folder of results."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from harness.errors import InputError
from harness.report import leaderboard, metrics
from harness.report.estimates import certain
from harness.report.leaderboard import Board
from harness.report.metrics import PRIMARY
from harness.report.numbers import NOTHING, interval, joined
from harness.report.pages.render import write_page
from harness.report.study import StudyResults, gather
from harness.report.text.answer import opening, scope
from harness.report.text.board import board_cells
from harness.report.text.notes import RERUN
from harness.report.text.table import Table
from harness.store import read_trials
from harness.store.audit import AUDIT_FILE
from harness.store.tuning import read_tuning

PAGE = "report.html"
#: Of a stack's digest in the table of arms; above it stands the whole.
DIGITS = 8


@dataclass(frozen=True)
class Entry:
    """A results folder: what it says, or why it can't be read."""

    link: str  #: from the index page; empty without a page
    name: str
    about: str = ""
    answer: str = ""
    problem: str = ""
    stack: str = ""
    board: Board | None = None


def study_folders(root: Path) -> list[Path]:
    """Folders of studies under ``root`` and ``root/reference``, by name."""
    folders = [path for path in (*root.glob("*"), *root.glob("reference/*")) if any(path.glob("trials/*.json"))]
    return sorted(folders, key=lambda path: str(path.relative_to(root)))


def write_index(root: Path) -> Path:
    """Write ``root/index.html``.  Raises ``InputError`` where there are no results."""
    entries = [_entry(folder, root) for folder in study_folders(root)]
    audit_folders = [path.parent for path in sorted(root.glob(f"*/{AUDIT_FILE}"))]
    audits = {folder.name: _link(folder, root, "audit.html") for folder in audit_folders}
    if not entries and not audits:
        raise InputError("there are no results here", where=str(root), remedy="run a study first: lorabench run STUDY")
    context = {"title": "All results", "entries": entries, "audits": audits, "arms": _arms(entries), "rerun": RERUN}
    return write_page("index", context, root)


def _entry(folder: Path, root: Path) -> Entry:
    name = folder.relative_to(root).as_posix()
    link = _link(folder, root, PAGE) if (folder / PAGE).exists() else ""
    try:
        study = gather(read_trials(folder), where=str(folder), tuning=read_tuning(folder))
    except InputError as problem:
        return Entry(link, name, problem=problem.what)
    board = leaderboard.rows(study)
    stack, _ = study.common(lambda record: record.stack)
    seen = ", ".join(str(stack[key]) for key in ("device", "dtype", "digest") if key in stack)
    said = opening(study, board)
    return Entry(link, name, f"{_model(study)}. {scope(study)}", said, "", seen, board)


def _link(folder: Path, root: Path, page: str) -> str:
    """Link from the index to a page; the bytes of a folder's name need not be UTF-8."""
    return quote(os.fsencode(folder.relative_to(root) / page))


def _model(study: StudyResults) -> str:
    return ", ".join(dict.fromkeys(record.spec.model for record in study.records))


def _arms(entries: Iterable[Entry]) -> Table:
    """Every arm of every study.  No test crosses studies here: `lorabench compare` does that."""
    primary, shown = metrics.metric(PRIMARY), metrics.indexed()
    difference = f"Difference to its reference, {primary.unit_of_difference}"
    columns = ["Method", "Study", primary.heading, difference]
    table = Table(
        "Every arm",
        [*columns, *(metric.heading for metric in shown), "Tie group", "p (Holm)", "Stack"],
        caption="Scores of different studies or stacks are not comparable; a difference and its p are within a study.",
    )
    for entry, board in ((entry, entry.board) for entry in entries):
        for row in (row for row in board or () if row.arm.trials):
            outcome, gap, cells = row.arm.estimate(PRIMARY), row.difference, board_cells(row, certain(board))
            table.rows.append(
                [
                    row.arm.name,
                    entry.name,
                    joined(primary.text(outcome.mean), interval(outcome)) if outcome else NOTHING,
                    primary.change(gap.mean if gap else None),
                    *(metric.text(row.arm.mean(metric)) for metric in shown),
                    cells["group"],
                    cells["p_holm"],
                    entry.stack.rpartition(", ")[2][:DIGITS],
                ]
            )
    return table
