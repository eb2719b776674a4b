"""Average accuracy against forgetting, with the Pareto front."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.statistics import Estimate
from harness.report.arms import Arm
from harness.report.figures.fronts import Point, draw_front, draw_points, held, pareto_front
from harness.report.figures.palette import Look
from harness.report.figures.parts import Drawing, Rows, drawn_arms, empty, limits
from harness.report.figures.style import COLUMN, GRID, INK, PAGE, TICKS, legend, new_figure
from harness.report.metrics import PRIMARY
from harness.report.study import StudyResults

COLUMNS = (
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
#: The most arms whose names have room beside a picture as wide as a column.
BESIDE = 10


def accuracy_forgetting(study: StudyResults, styles: dict[str, Look]) -> Drawing:
    """Average accuracy against forgetting: an arm is a point, with its trials or an ellipse of both intervals."""
    points = {arm.name: point for arm in drawn_arms(study, styles) if (point := _point(arm))}
    if not points:
        return empty("Accuracy against forgetting needs two tasks."), COLUMNS, []
    ready = {name: point for name, point in points.items() if point.arm.complete and point.arm.trains}
    front = pareto_front({name: (point.x.mean, point.y.mean) for name, point in ready.items()})
    rows: Rows = []
    for name, point in points.items():
        rows.append(_row(point, front))
        lost, scores = point.arm.values("forgetting"), point.arm.values(PRIMARY)
        for (order, seed), value in sorted(lost.items()):
            rows.append({"arm": name, "order": order, "seed": seed, "forgetting": value,
                         "average_accuracy": scores[order, seed]})  # fmt: skip
    return [_scatter(points, front, styles)], COLUMNS, rows


def _point(arm: Arm) -> Point | None:
    x, y = arm.estimate("forgetting"), arm.estimate(PRIMARY)
    if x is None or y is None:
        return None
    lost, scores = arm.values("forgetting"), arm.values(PRIMARY)
    return Point(arm, scaled(x), scaled(y), tuple((100 * lost[key], 100 * scores[key]) for key in sorted(lost)))


def scaled(value: Estimate) -> Estimate:
    """A share in per cent."""
    low, high = (None if end is None else 100 * end for end in (value.low, value.high))
    return replace(value, mean=100 * value.mean, low=low, high=high)


def _row(point: Point, front: list[str]) -> dict[str, object]:
    x, y = point.arm.estimate("forgetting"), point.arm.estimate(PRIMARY)
    assert x is not None
    assert y is not None
    return {
        "arm": point.arm.name,
        "forgetting": x.mean,
        "forgetting_ci_low": x.low,
        "forgetting_ci_high": x.high,
        "average_accuracy": y.mean,
        "average_accuracy_ci_low": y.low,
        "average_accuracy_ci_high": y.high,
        "trials": x.n,
        "complete": point.arm.complete,
        "on_front": point.arm.name in front,
    }


def _scatter(points: dict[str, Point], front: list[str], styles: dict[str, Look]) -> Figure:
    figure = new_figure(COLUMN if len(points) <= BESIDE else PAGE, 2.6 if len(points) <= BESIDE else 3.6)
    axes = figure.subplots()
    untrained = [name for name, point in points.items() if not point.arm.trains]
    if len(untrained) == len(points):  # nothing else sets the limits of the axes
        untrained = []
    inner = {name: point for name, point in points.items() if name not in untrained}
    draw_front(axes, [(points[name].x.mean, points[name].y.mean) for name in front])
    draw_points(axes, inner, styles)
    axes.set_xlim(limits([*held(inner.values(), "x"), 0], 2))
    axes.set_ylim(limits(held(inner.values(), "y"), 4))
    for nth, name in enumerate(untrained):
        _untrained(axes, points[name], styles[name], nth)
    axes.axvline(0, color=GRID, linewidth=0.8, zorder=0)
    axes.set_xlabel("forgetting (points, lower is better)")
    axes.set_ylabel("average accuracy (%)")
    legend(figure, points, styles, line=False)
    return figure


def _untrained(axes: Axes, point: Point, look: Look, nth: int) -> None:
    """Draw a model that is not trained: in its place, or at the lower edge if it would squeeze the others.

    At the edge its number stands beside it; ``nth`` counts such models, whose numbers stand one above the other.
    """
    x, y = point.x.mean, point.y.mean
    low, high = axes.get_ylim()
    inside = y > low - 0.35 * (high - low)
    if inside:
        axes.set_ylim(min(low, y - 0.07 * (high - low)), max(high, y + 0.07 * (high - low)))
    # The lower edge stands for "below the axis".
    at = y if inside else low
    axes.plot([x], [at], marker=look.marker, color=look.color, markersize=5.5, linestyle="none", clip_on=False,
              zorder=5)  # fmt: skip
    if not inside:
        axes.annotate(
            f"{look.label}: {y:.1f} %, below the axis",
            (x, at),
            xytext=(5, 4 + 9 * nth),
            textcoords="offset points",
            color=INK,
            fontsize=TICKS,
        )
