"""What the figures share: which arms are drawn, points with their trials or interval, pages, axis limits."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.statistics import Estimate, Scale
from harness.report.arms import Arm
from harness.report.estimates import estimate
from harness.report.figures.palette import Look
from harness.report.figures.style import COLUMN, INK, PAPER, new_figure
from harness.report.study import StudyResults

#: Rows of the table behind a figure, and its columns where x is a stage of the stream.
Rows = list[dict[str, Any]]
#: A figure by its pages, the columns of the table behind it, and its rows.
Drawing = tuple[list[Figure], Sequence[str], Rows]
POINT = ("arm", "x", "mean", "ci_low", "ci_high", "trials")
#: Below so many trials each is drawn as a dot; from there on there is an interval instead.
FEW = 6
#: The most arms whose trials or intervals are drawn in one panel; more would hide the means.
CLEAR = 6
#: The most arms of one panel; more stand on further pages.
MOST = 12


@dataclass(frozen=True)
class Spot:
    """A mean at a place on the x axis, with the trials behind it."""

    x: float
    value: Estimate
    trials: tuple[float, ...]

    @classmethod
    def of(cls, x: float, trials: Mapping[tuple[str, int], float], scale: Scale = (None, None)) -> Spot:
        return cls(x, estimate(trials, scale), tuple(trials[key] for key in sorted(trials)))


Series = dict[str, list[Spot]]


def drawn_arms(study: StudyResults, styles: Mapping[str, Look]) -> list[Arm]:
    """Arms with a finished trial, in the order of the looks."""
    by_name = {arm.name: arm for arm in study.arms if arm.trials}
    return [by_name[name] for name in styles if name in by_name]


def pages_of(names: Sequence[str], most: int = MOST, always: Collection[str] = ()) -> list[list[str]]:
    """The names in pages as even as they can be; those of ``always`` that are there stand on each, first."""
    kept = [name for name in names if name in always]
    others = [name for name in names if name not in kept]
    count = max(1, -(-len(others) // max(1, most - len(kept))))
    return [[*kept, *page] for page in map(list, np.array_split(np.array(others, dtype=object), count))]


def filled(panels: Any, lines: Sequence[Sequence[Any]]) -> Iterator[tuple[int, int, Axes, Any]]:
    """Row, column and axes of each panel with what it is to show; panels beyond the end of a line are hidden."""
    for row, (line, axes) in enumerate(zip(lines, panels, strict=True)):
        for column, panel in enumerate(axes):
            if column < len(line):
                yield row, column, panel, line[column]
            else:
                panel.set_visible(False)


def empty(message: str) -> list[Figure]:
    """A figure that says why there is nothing to draw: the set of files is the same for every study."""
    lines = textwrap.wrap(message, 54)
    figure = new_figure(COLUMN, 0.3 + 0.14 * len(lines))
    figure.text(0.02, 0.5, "\n".join(lines), ha="left", va="center", color=INK)
    return [figure]


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
    """From ``FEW`` trials up: an interval of fewer is so wide that it hides all else, and dots say more."""
    return value.n >= FEW and value.low is not None and value.high is not None


def mark(axes: Axes, spot: Spot, look: Look, scale: float = 1.0, *, at: float | None = None) -> None:
    """A mean with its interval, or with a dot for each trial where those are few."""
    x = spot.x if at is None else at
    if spot.value.n < FEW:
        dots(axes, [x] * len(spot.trials), [trial * scale for trial in spot.trials], look)
    axes.errorbar(
        x, spot.value.mean * scale, yerr=bars(spot.value, scale), color=look.color, marker=look.marker, capsize=1.5,
        elinewidth=0.8, capthick=0.8, markeredgecolor=PAPER, markeredgewidth=0.4, zorder=3,
    )  # fmt: skip


def dots(axes: Axes, xs: Sequence[float], ys: Sequence[float], look: Look) -> None:
    """Trials, behind the means."""
    axes.plot(xs, ys, linestyle="none", marker=".", color=look.color, alpha=0.45, markersize=4, markeredgewidth=0,
              zorder=2)  # fmt: skip


def limits(values: Iterable[float], least: float, pad: float = 0.07) -> tuple[float, float]:
    """Axis limits with some air, at least ``least`` wide: equal values must not look like a difference."""
    known = list(values) or [0.0]
    low, high = min(known), max(known)
    grow = max(0.0, least - (high - low)) / 2
    air = max(high - low, least) * pad
    return low - grow - air, high + grow + air


def spans(spots: Iterable[Spot], scale: float = 1.0) -> list[float]:
    """What an axis must hold: means, and the trials or ends of the intervals that are drawn."""
    ends: list[float | None] = []
    for spot in spots:
        ends += [spot.value.mean]
        ends += [spot.value.low, spot.value.high] if drawable(spot.value) else []
        ends += spot.trials if spot.value.n < FEW else ()
    return [x * scale for x in ends if x is not None]


def spots_of(series: Mapping[str, Sequence[Spot]]) -> Iterator[Spot]:
    """The points of every line."""
    return (spot for line in series.values() for spot in line)


def from_zero(held: Sequence[float], counts: bool) -> tuple[float, float]:
    """Limits of an axis of counts or distances: neither goes below 0, even where an interval does."""
    top = max([*held, 1.0 if counts else 1e-4])
    return -0.04 * top, 1.07 * top
