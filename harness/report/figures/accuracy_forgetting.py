"""Average accuracy against forgetting, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.statistics import Estimate
from harness.report.arms import Arm
from harness.report.figures.parts import Rows, bars, drawn_arms, empty, limits, other_arms, spans
from harness.report.figures.style import GRID, INK, PAPER, Look, drawn_name, legend, new_figure
from harness.report.study import StudyResults


def accuracy_forgetting(study: StudyResults, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Average accuracy against forgetting: an arm is a point with both intervals, a trial a faint dot.

    Arms without a look are grey points, so that the front is that of all arms.
    """
    columns = (
        "arm",
        "order",
        "seed",
        "forgetting",
        "forgetting_ci_low",
        "forgetting_ci_high",
        "average_accuracy",
        "average_accuracy_ci_low",
        "average_accuracy_ci_high",
        "trials",
        "complete",
        "on_front",
    )
    points = {}
    for arm in (*drawn_arms(study, styles), *other_arms(study, styles)):
        across, up = arm.estimate("forgetting"), arm.estimate("average_accuracy")
        if across and up:
            points[arm.name] = (arm, across, up)
    if not points:
        return empty("Accuracy against forgetting needs two tasks."), columns, []
    front = pareto_front({n: (x.mean, y.mean) for n, (arm, x, y) in points.items() if arm.complete and arm.trains})
    rows: Rows = []
    for name, (arm, x, y) in points.items():
        rows.append(
            {
                "arm": name,
                "forgetting": x.mean,
                "forgetting_ci_low": x.low,
                "forgetting_ci_high": x.high,
                "average_accuracy": y.mean,
                "average_accuracy_ci_low": y.low,
                "average_accuracy_ci_high": y.high,
                "trials": x.n,
                "complete": arm.complete,
                "on_front": name in front,
            }
        )
        for (order, seed), value in sorted(arm.values("forgetting").items()) if name in styles else ():
            rows.append(
                {
                    "arm": name,
                    "order": order,
                    "seed": seed,
                    "forgetting": value,
                    "average_accuracy": arm.values("average_accuracy")[order, seed],
                }
            )
    return _scatter(points, front, styles), columns, rows


def _scatter(points: dict[str, tuple[Arm, Estimate, Estimate]], front: list[str], styles: dict[str, Look]) -> Figure:
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    line = [(points[name][1].mean * 100, points[name][2].mean * 100) for name in front]
    if len(line) > 1:
        axes.plot(*zip(*line, strict=True), color=INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.6, zorder=1)
    held: tuple[list[float], list[float]] = ([], [])
    untrained = [name for name, (arm, _, _) in points.items() if name in styles and not arm.trains]
    if len(untrained) == len(points):  # nothing else sets the limits of the axes
        untrained = []
    others = [(x.mean * 100, y.mean * 100) for name, (_, x, y) in points.items() if name not in styles]
    if others:
        axes.plot(*zip(*others, strict=True), ".", color=GRID, markersize=5, zorder=1)
        for name in (name for name in front if name not in styles):
            at = points[name][1].mean * 100, points[name][2].mean * 100
            axes.annotate(drawn_name(name), at, (4, -3), textcoords="offset points", fontsize=7, alpha=0.8)
        for side, means in zip(held, zip(*others, strict=True), strict=True):
            side += means
    for name, (arm, x, y) in points.items():
        if name not in styles or name in untrained:
            continue
        look = styles[name]
        dots = [[v * 100 for _, v in sorted(arm.values(m).items())] for m in ("forgetting", "average_accuracy")]
        axes.plot(*dots, ".", color=look.color, alpha=0.3, markersize=5, markeredgewidth=0, zorder=2)
        axes.errorbar(
            x.mean * 100,
            y.mean * 100,
            xerr=bars(x, 100),
            yerr=bars(y, 100),
            color=look.color,
            marker=look.marker,
            markersize=7,
            capsize=2.5,
            elinewidth=1.2,
            zorder=4,
            markeredgewidth=1,
            markerfacecolor=look.color if arm.complete else PAPER,
        )
        for side, value, trial_values in zip(held, (x, y), dots, strict=True):
            side += spans([value], 100) + trial_values
    axes.set_xlim(limits([*held[0], 0], 2))
    axes.set_ylim(limits(held[1], 4))
    for nth, name in enumerate(untrained):
        _, x, y = points[name]
        _untrained(axes, x.mean * 100, y.mean * 100, styles[name], nth)
    axes.axvline(0, color=GRID, linewidth=0.9, zorder=0)
    axes.set_xlabel("forgetting (points, lower is better)")
    axes.set_ylabel("average accuracy (%, higher is better)")
    legend(figure, points, styles)
    return figure


def _untrained(axes: Axes, x: float, y: float, look: Look, nth: int) -> None:
    """Draw a model that is not trained: in its place, or at the lower edge if it would squeeze the others.

    At the edge its number stands beside it; ``nth`` counts such models, whose numbers stand one above the other.
    """
    low, high = axes.get_ylim()
    inside = y > low - 0.35 * (high - low)
    if inside:
        axes.set_ylim(min(low, y - 0.07 * (high - low)), max(high, y + 0.07 * (high - low)))
    # The lower edge stands for "below the axis".
    at = y if inside else low
    axes.plot([x], [at], marker=look.marker, color=look.color, markersize=7, linestyle="none", clip_on=False, zorder=5)
    if not inside:
        axes.annotate(
            f"{look.label}: {y:.1f} %, below the axis",
            (x, at),
            xytext=(7, 6 + 10 * nth),
            textcoords="offset points",
            color=INK,
            fontsize=7.5,
        )


def pareto_front(points: dict[str, tuple[float, float]]) -> list[str]:
    """Names that no other point beats (less forgetting and at least the accuracy, or the reverse), by forgetting."""
    front = [
        name for name, (x, y) in points.items()
        if not any(a <= x and b >= y and (a < x or b > y) for a, b in points.values())
    ]  # fmt: skip
    return sorted(front, key=lambda name: (points[name], name))
