"""The board as text, for page, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.analysis.statistics import Estimate
from harness.report.leaderboard import PRIMARY, Row, trial_count
from harness.report.text.numbers import NOTHING, interval, number, p_text, percent, points, with_error
from harness.report.text.table import Table
from harness.report.text.tables import METRICS, joined


def leaderboard_table(board: Sequence[Row]) -> Table:
    """The board as text, for Markdown and LaTeX; the page draws the same cells with bars."""
    statistics = ["Average accuracy, %", "Difference to LoRA, points", "p", "p (Holm)", "Detectable, points"]
    metrics = [heading for heading, _ in METRICS.values()]
    table = Table("Leaderboard", ["Method", "Tie group", "Trials", *statistics, *metrics, "Settings tried", "Ranked"])
    for row in board:
        cells = board_cells(row)
        accuracy = joined(cells["accuracy"], cells["interval"])
        difference = joined(cells["difference"], cells["difference_interval"])
        table.rows.append(
            [row.arm.name, cells["group"], cells["trials"], accuracy, difference, cells["p"], cells["p_holm"],
             cells["detectable"], *cells["metrics"], cells["settings_tried"], cells["why_not"] or "yes"]
        )  # fmt: skip
    return table


def board_cells(row: Row) -> dict[str, Any]:
    arm, gap = row.arm, row.difference
    outcome, error = arm.estimate(PRIMARY), arm.estimate(f"{PRIMARY}_stderr")
    return {
        "name": arm.name, "trials": trial_count(arm), "why_not": row.why_not,
        "group": NOTHING if row.group is None else str(row.group),
        "accuracy": with_error(percent(outcome.mean if outcome else None), error.mean if error else None),
        "interval": interval(outcome),
        "difference": points(gap.mean if gap else None),
        "difference_interval": interval(Estimate(gap.mean, gap.low, gap.high, gap.pairs), points) if gap else "",
        "p": p_text(row.p), "p_holm": p_text(row.p_holm), "detectable": number(row.detectable, 1, 100),
        "metrics": [write(value.mean) if (value := arm.estimate(name)) else NOTHING
                    for name, (_, write) in METRICS.items()],
        "settings_tried": str(arm.settings_tried),
    }  # fmt: skip
