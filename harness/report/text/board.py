"""The board as text, for page, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.report import metrics
from harness.report.leaderboard import Board, BoardRow, trial_count
from harness.report.metrics import PRIMARY
from harness.report.numbers import NOT_TESTABLE, NOTHING, interval, joined, p_text, with_error
from harness.report.text.table import Table
from harness.study.reference import DEFAULT

#: The column of whom an arm is compared with, where that is not one for all.
COMPARED = "Compared with"
#: What stands over the controls.
CONTROLS = "Controls: bounds to compare with, not contestants"


def columns(board: Board) -> list[str]:
    """Of the board, on every page."""
    primary = metrics.metric(PRIMARY)
    points = primary.unit_of_difference
    partners = partners_of(board)
    to = "LoRA" if partners in ([], [DEFAULT]) else partners[0] if len(partners) == 1 else "the reference"
    compared = [COMPARED] if len(partners) > 1 else []
    tests = [f"Block interval, {points}", "p", "p (Holm)", "p (sign flip)", f"Detectable, {points}"]
    others = [metric.heading for metric in metrics.in_table("main")]
    front = ["Method", "Tie group", "Trials", primary.heading]
    return [*front, f"Difference to {to}, {points}", *compared, *tests, *others, "Settings tried", "Ranked"]


def leaderboard_tables(board: Board) -> list[Table]:
    """The contestants, and the controls below them, for Markdown and LaTeX; the page draws the same cells with bars."""
    parts = {"Leaderboard": [row for row in board if not row.arm.control]}
    parts[CONTROLS] = [row for row in board if row.arm.control]
    return [
        Table(name, columns(board), _lines(board, rows)) for name, rows in parts.items() if rows or name != CONTROLS
    ]


def _lines(board: Board, rows: Sequence[BoardRow]) -> list[list[str]]:
    lines = []
    for row in rows:
        cells = board_cells(row, board)
        accuracy = joined(cells["accuracy"], cells["interval"])
        difference = [joined(cells["difference"], cells["difference_interval"])]
        if len(partners_of(board)) > 1:
            difference.append(cells["partner"])
        tests = [cells[name] for name in ("block", "p", "p_holm", "p_sign_flip", "detectable")]
        lines.append(
            [row.arm.name, cells["group"], cells["trials"], accuracy, *difference, *tests, *cells["metrics"],
             cells["settings_tried"], cells["why_not"] or "yes"]
        )  # fmt: skip
    return lines


def partners_of(board: Sequence[BoardRow]) -> list[str]:
    """The arms that others are compared with, by name."""
    return sorted({row.partner.name for row in board if row.partner})


def board_cells(row: BoardRow, board: Board) -> dict[str, Any]:
    """The cells of one row as text, by name."""
    arm, gap, primary = row.arm, row.difference, metrics.metric(PRIMARY)
    outcome, error = arm.estimate(PRIMARY), arm.estimate(f"{PRIMARY}_stderr")
    p = NOT_TESTABLE if row.untestable else None
    group = NOT_TESTABLE if row.contends and board.groups.untested else NOTHING
    return {
        "name": arm.name, "trials": trial_count(arm), "why_not": row.why_not, "control": arm.control,
        "group": group if row.group is None else str(row.group),
        "accuracy": with_error(primary.text(outcome.mean if outcome else None), error.mean if error else None),
        "interval": interval(outcome),
        "difference": primary.change(gap.mean if gap else None),
        "difference_interval": interval(gap.estimate, primary.change) if gap else "",
        "block": interval(row.block, primary.change) or NOTHING,
        "p": p or p_text(row.p), "p_holm": p or p_text(row.p_holm),
        "p_sign_flip": p_text(gap.p_sign_flip if gap and row.p is not None else None),
        "detectable": primary.text(row.detectable),
        "partner": row.partner.name if row.partner else NOTHING,
        "metrics": [metric.text(arm.mean(metric)) for metric in metrics.in_table("main")],
        "settings_tried": str(arm.settings_tried),
    }  # fmt: skip
