"""What the figures share: which arms are drawn, points with intervals, axis limits, the empty figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from harness.analysis.statistics import Estimate
from harness.report.arms import Arm
from harness.report.figures.style import GRID, INK, PAPER, Look, drawn_name, new_figure
from harness.report.study import StudyResults

#: Rows of the table behind a figure, and its columns where x is a stage of the stream.
Rows = list[dict[str, Any]]
Points = Sequence[tuple[float, Estimate]]
POINT = ("arm", "x", "mean", "ci_low", "ci_high", "trials")


def drawn_arms(study: StudyResults, styles: dict[str, Look]) -> list[Arm]:
    """Arms with a finished trial, in the fixed order of the looks."""
    by_name = {arm.name: arm for arm in study.arms if arm.trials}
    return [by_name[name] for name in styles if name in by_name]


def other_arms(study: StudyResults, styles: dict[str, Look]) -> list[Arm]:
    """Arms with a finished trial that have no look."""
    return [arm for arm in study.arms if arm.trials and arm.name not in styles]


def empty(message: str) -> Figure:
    """A figure that says why there is nothing to draw: the set of files is the same for every study."""
    figure = new_figure(6.4, 1.2)
    figure.text(0.02, 0.5, message, ha="left", va="center", color=INK)
    return figure


def point_row(arm: Arm, x: Any, value: Estimate, **more: Any) -> dict[str, Any]:
    return {
        "arm": arm.name,
        "x": x,
        "mean": value.mean,
        "ci_low": value.low,
        "ci_high": value.high,
        "trials": value.n,
    } | more


def bars(value: Estimate, scale: float = 1.0) -> list[list[float]] | None:
    """The interval as matplotlib's error bars: lengths below and above; None without an interval worth drawing."""
    if not drawable(value):
        return None
    assert value.low is not None
    assert value.high is not None
    return [[(value.mean - value.low) * scale], [(value.high - value.mean) * scale]]


def drawable(value: Estimate) -> bool:
    """From three trials up: the t interval of two is 9 standard deviations to each side and hides all else."""
    return value.n >= 3 and value.low is not None and value.high is not None


def whisker(axes: Axes, x: float, value: Estimate, look: Look, scale: float = 1.0, **more: Any) -> None:
    """A point with its interval, if it has one."""
    axes.errorbar(
        x,
        value.mean * scale,
        yerr=bars(value, scale),
        color=look.color,
        marker=look.marker,
        markersize=5,
        capsize=2,
        elinewidth=1,
        markeredgecolor=PAPER,
        markeredgewidth=0.5,
        zorder=3,
        **more,
    )


def limits(values: Iterable[float], least: float, pad: float = 0.07) -> tuple[float, float]:
    """Axis limits with some air, at least ``least`` wide: equal values must not look like a difference."""
    known = list(values) or [0.0]
    low, high = min(known), max(known)
    grow = max(0.0, least - (high - low)) / 2
    air = max(high - low, least) * pad
    return low - grow - air, high + grow + air


def spans(values: Iterable[Estimate], scale: float = 1.0) -> list[float]:
    """What an axis must hold: means, and the ends of the intervals that are drawn."""
    ends = [x for v in values for x in ((v.mean, v.low, v.high) if drawable(v) else (v.mean,))]
    return [x * scale for x in ends if x is not None]


def values_of(series: Mapping[str, Points]) -> Iterator[Estimate]:
    """The values of every line, without their positions."""
    return (value for points in series.values() for _, value in points)


def from_zero(held: Sequence[float], counts: bool) -> tuple[float, float]:
    """Limits of an axis of counts or distances: neither goes below 0, even where an interval does."""
    top = max([*held, 1.0 if counts else 1e-4])
    return -0.04 * top, 1.07 * top


def grey_lines(axes: Axes, series: Mapping[str, Points]) -> None:
    """Means of arms that have no look, with their names; the axis grows to hold them."""
    for name, points in series.items():
        xs, means = [x for x, _ in points], [value.mean for _, value in points]
        axes.plot(xs, means, ".-", color=GRID, linewidth=1.2, zorder=1)
        end = (xs[-1], means[-1])
        words = axes.annotate(
            drawn_name(name), end, (-5, 3), textcoords="offset points", fontsize=7, ha="right", color=INK
        )
        words.set_path_effects([withStroke(linewidth=2, foreground=PAPER)])
        bottom, top = axes.get_ylim()
        axes.set_ylim(min(bottom, -0.04 * max(means)), max(top, 1.07 * max(means)))
