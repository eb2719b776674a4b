"""The board as text, for page, Markdown and LaTeX: its columns, in the order of the question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report import metrics
from harness.report.leaderboard import Board, BoardRow, trial_count
from harness.report.metric import Metric
from harness.report.metrics import PRIMARY
from harness.report.numbers import NOT_TESTABLE, NOTHING, interval, joined, number, p_text
from harness.report.text.table import Table
from harness.study.reference import DEFAULT

#: The column of whom an arm is compared with, where that is not one for all.
COMPARED = "Compared with"
#: What stands over the controls.
CONTROLS = "Controls: bounds to compare with, not contestants"
#: What stands over the columns that the page shows when asked.
TESTS = "Tests and further columns"


@dataclass(frozen=True)
class Cell:
    """A number and, in smaller letters, its one uncertainty or what it is of the reference's."""

    text: str
    beside: str = ""

    def __str__(self) -> str:
        return joined(self.text, self.beside)


@dataclass(frozen=True)
class Column:
    """A column of the board after the method's; ``folded`` ones are shown when asked for."""

    heading: str
    cell: Callable[[BoardRow], Cell]
    folded: bool = False
    metric: Metric | None = None  #: that it shows, if it is that of a metric


def columns(board: Board) -> list[Column]:
    """Accuracy, forgetting and the other main metrics with cost, then what was tested and how."""
    primary = metrics.metric(PRIMARY)
    points = primary.unit_of_difference
    partners = partners_of(board)
    to = "LoRA" if partners in ([], [DEFAULT]) else partners[0] if len(partners) == 1 else "the reference"
    compared = [Column(COMPARED, lambda row: Cell(row.partner.name if row.partner else NOTHING))]

    def cells(name: str) -> Callable[[BoardRow], Cell]:
        return lambda row: Cell(board_cells(row, board)[name])

    return [
        _of_metric(primary),
        Column(f"Difference to {to}, {points}", _difference),
        *(compared if len(partners) > 1 else []),
        *map(_of_metric, metrics.in_table("main")),
        Column("Trials", cells("trials")),
        Column("Tie group", cells("group"), folded=True),
        Column("p", cells("p"), folded=True),
        Column("p (Holm)", cells("p_holm"), folded=True),
        Column("p (sign flip)", cells("p_sign_flip"), folded=True),
        Column(f"Block interval, {points}", cells("block"), folded=True),
        Column(f"Detectable, {points}", cells("detectable"), folded=True),
        *(_of_metric(metric, folded=True) for metric in metrics.in_table("tests")),
        Column("Settings tried", cells("settings_tried"), folded=True),
    ]


def _of_metric(metric: Metric, folded: bool = False) -> Column:
    """Its mean with the interval over trials; of a cost without one, how many times the reference's it is."""

    def cell(row: BoardRow) -> Cell:
        value = row.arm.estimate(metric.name) if metric.of != "arm" else None
        text = metric.text(row.arm.mean(metric))
        if metric.of != "costs":
            # An interval is as wide as 0 where every trial has the same.
            return Cell(text, interval(value, metric.text) if value and metric.interval else "")
        theirs = row.partner.mean(metric) if row.partner else None
        return Cell(text, f"({number(value.mean / theirs, 2)} ×)" if value and theirs else "")

    return Column(metric.heading, cell, folded, metric)


def _difference(row: BoardRow) -> Cell:
    gap, primary = row.difference, metrics.metric(PRIMARY)
    return Cell(primary.change(gap.mean if gap else None), interval(gap.estimate, primary.change) if gap else "")


def leaderboard_tables(board: Board) -> list[Table]:
    """The contestants, the controls below them, and the tests of all, for Markdown and LaTeX."""
    own = columns(board)
    main = [column for column in own if not column.folded]
    parts = {"Leaderboard": [row for row in board if not row.arm.control]}
    parts[CONTROLS] = [row for row in board if row.arm.control]
    tables = [
        Table(name, ["Method", *(column.heading for column in main)],
              [[row.arm.name, *(str(column.cell(row)) for column in main)] for row in rows])
        for name, rows in parts.items() if rows or name != CONTROLS
    ]  # fmt: skip
    folded = [column for column in own if column.folded]
    lines = [[row.arm.name, *(str(column.cell(row)) for column in folded), row.why_not or "yes"] for row in board]
    return [*tables, Table(TESTS, ["Method", *(column.heading for column in folded), "Ranked"], lines)]


def partners_of(board: Sequence[BoardRow]) -> list[str]:
    """The arms that others are compared with, by name."""
    return sorted({row.partner.name for row in board if row.partner})


def board_cells(row: BoardRow, board: Board) -> dict[str, Any]:
    """What the board says of an arm beside its metrics, by name."""
    arm, gap, primary = row.arm, row.difference, metrics.metric(PRIMARY)
    p = NOT_TESTABLE if row.untestable else None
    group = NOT_TESTABLE if row.contends and board.groups.untested else NOTHING
    return {
        "trials": trial_count(arm),
        "group": group if row.group is None else str(row.group),
        "block": interval(row.block, primary.change) or NOTHING,
        "p": p or p_text(row.p), "p_holm": p or p_text(row.p_holm),
        "p_sign_flip": p_text(gap.p_sign_flip if gap and row.p is not None else None),
        "detectable": primary.text(row.detectable),
        "settings_tried": str(arm.settings_tried),
    }  # fmt: skip
