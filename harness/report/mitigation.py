"""The table and the figure of ``lorabench mitigate``: forgetting recovered and accuracy lost over the part kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.report.csv_files import write_csv
from harness.report.estimates import estimate
from harness.report.figures.mitigation import PANELS, draw_mitigation
from harness.report.figures.parts import Rows
from harness.report.figures.style import context, looks, save

FIGURE = ("arm", "kind", "keep", "quantity", "mean", "ci_low", "ci_high", "trials")


def write_mitigation(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], folder: Path) -> list[Path]:
    """Write ``scores.csv`` (one row per variant) and the figure ``mitigation`` with its numbers into ``folder``.

    ``rows`` are those of :func:`harness.posthoc.mitigation.mitigate`, of at least one trial.
    """
    scores = sorted({name for row in rows for name in row if name.startswith("score_")})
    points = changes(rows)
    styles = looks({(row["arm"], row["arm"].partition("@")[0]) for row in rows})
    with context():
        written = [write_csv(folder / "scores.csv", (*columns, *scores), map(dict, rows))]
        written += save(draw_mitigation(points, styles), folder / "mitigation")
    return [*written, write_csv(folder / "mitigation.csv", FIGURE, points)]


def changes(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Mean change from the same trial's trained adapter, with its interval over trials, by arm, kind and part kept."""
    trained = {row["trial"]: row for row in rows if row["kind"] == "trained"}
    groups: dict[tuple, dict[tuple[str, int], float]] = defaultdict(dict)
    for row in rows:
        for quantity, (column, sign, _) in PANELS.items():
            before, after = trained[row["trial"]].get(column), row.get(column)
            if row["kind"] == "trained" or before is None or after is None:
                continue
            groups[row["arm"], row["kind"], row["keep"], quantity][row["order"], row["seed"]] = sign * (after - before)
    points = []
    for (arm, kind, keep, quantity), values in sorted(groups.items()):
        value = estimate(values)
        points.append(
            {"arm": arm, "kind": kind, "keep": keep, "quantity": quantity, "mean": value.mean, "ci_low": value.low,
             "ci_high": value.high, "trials": value.n}
        )  # fmt: skip
    return points
