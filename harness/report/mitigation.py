"""The table and the figure of ``lorabench mitigate``: forgetting recovered and accuracy lost over the part kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from harness.report.drawing import Rows, empty
from harness.report.frame import estimate, write_csv
from harness.report.style import INK, Look, context, legend, looks, new_figure, save

FIGURE = ("arm", "kind", "keep", "quantity", "mean", "ci_low", "ci_high", "trials")
#: Quantity -> (column, what falls as it recovers or is lost: sign, label).
PANELS = {
    "forgetting recovered": ("forgetting", -1, "forgetting recovered (points)"),
    "general ability recovered": ("general_delta", 1, "probes recovered (points)"),
    "accuracy lost": ("last_task_accuracy", -1, "accuracy lost on the last task (points)"),
}
LINES = {"mitigated": "-", "control": (0, (4, 2))}


def write_mitigation(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], folder: Path) -> list[Path]:
    """Write ``scores.csv`` (one row a variant) and the figure ``mitigation`` with its numbers into ``folder``.

    ``rows`` are those of :func:`harness.posthoc.mitigation.mitigate`, at least one trial's.
    """
    scores = sorted({name for row in rows for name in row if name.startswith("score_")})
    points = changes(rows)
    styles = looks({(row["arm"], row["arm"].partition("@")[0]) for row in rows})
    with context():
        written = [write_csv(folder / "scores.csv", (*columns, *scores), map(dict, rows))]
        written += save(_figure(points, styles), folder / "mitigation")
    return [*written, write_csv(folder / "mitigation.csv", FIGURE, points)]


def changes(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Mean change against the same trial as trained, with its interval over trials, by arm, kind, part kept."""
    trained = {row["trial"]: row for row in rows if row["kind"] == "trained"}
    groups: dict[tuple, dict[tuple[str, int], float]] = defaultdict(dict)
    for row in rows:
        for quantity, (column, sign, _) in PANELS.items():
            before, after = trained[row["trial"]].get(column), row.get(column)
            if row["kind"] == "trained" or before is None or after is None:
                continue
            groups[row["arm"], row["kind"], row["keep"], quantity][row["order"], row["seed"]] = sign * (after - before)
    found = []
    for (arm, kind, keep, quantity), values in sorted(groups.items()):
        value = estimate(values)
        found.append(
            {"arm": arm, "kind": kind, "keep": keep, "quantity": quantity, "mean": value.mean, "ci_low": value.low,
             "ci_high": value.high, "trials": value.n}
        )  # fmt: skip
    return found


def _figure(points: Rows, styles: dict[str, Look]):
    quantities = [name for name in PANELS if any(point["quantity"] == name for point in points)]
    if not quantities:
        return empty("No variant could be scored.")
    figure = new_figure(3.4 * len(quantities), 3.4)
    for axes, quantity in zip(figure.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True):
        _panel(axes, [point for point in points if point["quantity"] == quantity], styles)
        axes.set_ylabel(PANELS[quantity][2])
    legend(figure, {point["arm"] for point in points}, styles)
    return figure


def _panel(axes: Axes, points: Rows, styles: dict[str, Look]) -> None:
    """A line an arm and kind, which ends in the trained adapter: everything kept, nothing changed."""
    axes.axhline(0, color=INK, linewidth=0.7)
    for arm in styles:
        for kind, line in LINES.items():
            own = sorted((p for p in points if (p["arm"], p["kind"]) == (arm, kind)), key=lambda p: p["keep"])
            if own:
                x, y = [p["keep"] for p in own] + [1.0], [100 * p["mean"] for p in own] + [0.0]
                look = styles[arm]
                marker = look.marker if kind == "mitigated" else None
                axes.plot(x, y, color=look.color, linestyle=line, marker=marker, markersize=5)
    axes.set_xlabel("part of the intruders kept, λ\n(dashed: all of ΔW shrunk as much)")
