"""The files of ``lorabench mitigate``: forgetting recovered and accuracy lost over the part kept, and reading them."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.analysis.statistics import SHARES_APART
from harness.report.csv_files import write_csv
from harness.report.estimates import estimate
from harness.report.figures.mitigation import PANELS, draw_mitigation
from harness.report.figures.palette import looks
from harness.report.figures.parts import Rows
from harness.report.figures.style import context, save

FIGURE = ("arm", "kind", "keep", "quantity", "mean", "ci_low", "ci_high", "trials")
SCORES = "scores.csv"
#: What a row must have to be shown on a page; the scores of older versions have no ``which``.
NEEDED = ("trial", "arm", "order", "seed", "which", "kind", "keep", "forgetting", "last_task_accuracy")
#: The kind of row that the others are changes from: the same adapter, scored beside them.
UNCHANGED = "rescored"
#: (arm, kind, part kept, quantity) -> (order, seed) -> by how much the quantity changes.
Effects = dict[tuple[str, str, float, str], dict[tuple[str, int], float]]


def write_mitigation(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], folder: Path) -> list[Path]:
    """Write ``scores.csv`` (one row per variant) and ``figures/mitigation`` with its numbers into ``folder``.

    ``rows`` are those of :func:`harness.posthoc.mitigation.mitigate`, of at least one trial.
    """
    scores = sorted({name for row in rows for name in row if name.startswith("score_")})
    points = mean_effects(rows)
    styles = looks({(row["arm"], row["arm"].partition("@")[0]) for row in rows})
    with context():
        written = [write_csv(folder / SCORES, (*columns, *scores), map(dict, rows))]
        written += save(draw_mitigation(points, styles), folder / "figures" / "mitigation")
    return [*written, write_csv(folder / "figures" / "mitigation.csv", FIGURE, points)]


def read_mitigation(folder: Path, fingerprints: Collection[str]) -> list[dict[str, Any]]:
    """The rows of ``folder/scores.csv`` that are of these trials; none where there is no file, or one of before."""
    path = folder / SCORES
    if not path.is_file():
        return []
    known = {fingerprint[:12] for fingerprint in fingerprints}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not set(NEEDED) <= rows[0].keys():
        return []
    return [_parsed(row) for row in rows if row["trial"] in known]


def _parsed(row: Mapping[str, str]) -> dict[str, Any]:
    words = ("trial", "arm", "order", "which", "kind")
    numbers = {name: float(value) for name, value in row.items() if name not in words and value}
    return {**{name: row[name] for name in words}, **numbers, "seed": int(row["seed"])}


def effects(rows: Sequence[Mapping[str, Any]]) -> Effects:
    """What every variant changes of the same trial's adapter as it is, in the direction of the quantity's name."""
    unchanged = {row["trial"]: row for row in rows if row["kind"] == UNCHANGED}
    groups: Effects = defaultdict(dict)
    for row in (row for row in rows if row["kind"] in ("mitigated", "control")):
        for quantity, (column, sign, _) in PANELS.items():
            before, after = unchanged[row["trial"]].get(column), row.get(column)
            if before is not None and after is not None:
                key = (row["arm"], row["kind"], row["keep"], quantity)
                groups[key][row["order"], row["seed"]] = sign * (after - before)
    return groups


def mean_effects(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Mean change with its interval over trials, by arm, kind and part kept."""
    points = []
    for (arm, kind, keep, quantity), values in sorted(effects(rows).items()):
        value = estimate(values, SHARES_APART)
        points.append(
            {"arm": arm, "kind": kind, "keep": keep, "quantity": quantity, "mean": value.mean, "ci_low": value.low,
             "ci_high": value.high, "trials": value.n}
        )  # fmt: skip
    return points
