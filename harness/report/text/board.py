"""The board as text, for page, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.analysis.statistics import Estimate
from harness.report import metrics
from harness.report.leaderboard import Row, trial_count
from harness.report.metrics import PRIMARY
from harness.report.numbers import NOTHING, interval, p_text, with_error
from harness.report.text.table import Table
from harness.report.text.tables import joined
from harness.study.reference import DEFAULT

#: The column of whom an arm is compared with, where that is not one for all.
COMPARED = "Compared with"


def leaderboard_table(board: Sequence[Row]) -> Table:
    """The board as text, for Markdown and LaTeX; the page draws the same cells with bars."""
    primary = metrics.metric(PRIMARY)
    points = primary.unit_of_difference
    partners = partners_of(board)
    to = "LoRA" if partners in ([], [DEFAULT]) else partners[0] if len(partners) == 1 else "the reference"
    compared = [COMPARED] if len(partners) > 1 else []
    statistics = [primary.heading, f"Difference to {to}, {points}", *compared, "p", "p (Holm)", f"Detectable, {points}"]
    others = [metric.heading for metric in metrics.in_table("main")]
    table = Table("Leaderboard", ["Method", "Tie group", "Trials", *statistics, *others, "Settings tried", "Ranked"])
    for row in board:
        cells = board_cells(row)
        accuracy = joined(cells["accuracy"], cells["interval"])
        difference = [
            joined(cells["difference"], cells["difference_interval"]),
            *([cells["partner"]] if compared else []),
        ]
        table.rows.append(
            [row.arm.name, cells["group"], cells["trials"], accuracy, *difference, cells["p"], cells["p_holm"],
             cells["detectable"], *cells["metrics"], cells["settings_tried"], cells["why_not"] or "yes"]
        )  # fmt: skip
    return table


def partners_of(board: Sequence[Row]) -> list[str]:
    """The arms that others are compared with, by name."""
    return sorted({row.partner.name for row in board if row.partner})


def board_cells(row: Row) -> dict[str, Any]:
    arm, gap, primary = row.arm, row.difference, metrics.metric(PRIMARY)
    outcome, error = arm.estimate(PRIMARY), arm.estimate(f"{PRIMARY}_stderr")
    ends = interval(Estimate(gap.mean, gap.low, gap.high, gap.pairs), primary.change) if gap else ""
    return {
        "name": arm.name, "trials": trial_count(arm), "why_not": row.why_not,
        "group": NOTHING if row.group is None else str(row.group),
        "accuracy": with_error(primary.text(outcome.mean if outcome else None), error.mean if error else None),
        "interval": interval(outcome),
        "difference": primary.change(gap.mean if gap else None), "difference_interval": ends,
        "p": p_text(row.p), "p_holm": p_text(row.p_holm), "detectable": primary.text(row.detectable),
        "partner": row.partner.name if row.partner else NOTHING,
        "metrics": [metric.text(arm.mean(metric)) for metric in metrics.in_table("main")],
        "settings_tried": str(arm.settings_tried),
    }  # fmt: skip
