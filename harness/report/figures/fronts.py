"""What the figures of two outcomes share: arms as points with their trials or an ellipse, and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from harness.analysis.statistics import Estimate
from harness.report.arms import Arm
from harness.report.figures.palette import Look
from harness.report.figures.parts import dots, drawable
from harness.report.figures.style import INK, PAPER


@dataclass(frozen=True)
class Point:
    """An arm in two outcomes; both in the units of their axes."""

    arm: Arm
    x: Estimate
    y: Estimate
    trials: tuple[tuple[float, float], ...]


def draw_points(axes: Axes, points: Mapping[str, Point], styles: Mapping[str, Look]) -> None:
    """Arms as markers, hollow where trials are missing; behind them an ellipse, or the trials where those are few."""
    for name, point in points.items():
        look, across, up = styles[name], point.x, point.y
        if drawable(across) and drawable(up):
            middle, wide, high = _ellipse(across, up)
            axes.add_patch(Ellipse(middle, wide, high, color=look.color, alpha=0.12, linewidth=0, zorder=1.5))
        elif point.trials:
            dots(axes, [x for x, _ in point.trials], [y for _, y in point.trials], look)
            for x, y in point.trials:
                axes.plot([across.mean, x], [up.mean, y], color=look.color, alpha=0.25, lw=0.6, zorder=1.6)
        axes.plot(
            [across.mean], [up.mean], linestyle="none", color=look.color, marker=look.marker, markersize=5.5, zorder=4,
            markeredgewidth=0.8, markerfacecolor=look.color if point.arm.complete else PAPER,
        )  # fmt: skip


def _ellipse(x: Estimate, y: Estimate) -> tuple[tuple[float, float], float, float]:
    """That whose axes are the two intervals, which need not lie evenly about their means."""
    assert None not in (x.low, x.high, y.low, y.high)
    ends = (x.low or 0.0, x.high or 0.0), (y.low or 0.0, y.high or 0.0)
    (left, right), (bottom, top) = ends
    return ((left + right) / 2, (bottom + top) / 2), right - left, top - bottom


def held(points: Iterable[Point], along: str) -> list[float]:
    """What the x or y axis must hold."""
    found: list[float] = []
    for point in points:
        value: Estimate = getattr(point, along)
        found.append(value.mean)
        if drawable(point.x) and drawable(point.y):
            found += [end for end in (value.low, value.high) if end is not None]
        else:
            found += [trial["xy".index(along)] for trial in point.trials]
    return found


def draw_front(axes: Axes, places: Sequence[tuple[float, float]]) -> None:
    """The front as a line from point to point."""
    if len(places) > 1:
        axes.plot(*zip(*places, strict=True), color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.7, zorder=1)


def pareto_front(points: dict[str, tuple[float, float]]) -> list[str]:
    """Names that no other point beats (less of x and at least as much of y, or the reverse), by x."""
    front = [
        name for name, (x, y) in points.items()
        if not any(a <= x and b >= y and (a < x or b > y) for a, b in points.values())
    ]  # fmt: skip
    return sorted(front, key=lambda name: (points[name], name))
