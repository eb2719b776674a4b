"""The score on the task being learnt, over its examples and over tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.statistics import SHARE, Estimate
from harness.report.arms import Arm
from harness.report.estimates import estimate
from harness.report.figures.palette import Look
from harness.report.figures.parts import Drawing, drawable, drawn_arms, empty, limits, pages_of, point_row
from harness.report.figures.style import INK, PAGE, PAPER, legend, new_figure
from harness.report.study import StudyResults

#: The most curves that are drawn with bands: more bands hide the lines.
BANDS = 4
#: Arm -> (examples, mean tokens, score) at the points of its curve.
Curves = dict[str, list[tuple[float, float, Estimate]]]


def sample_efficiency(study: StudyResults, styles: dict[str, Look]) -> Drawing:
    """Score on the task being learnt against examples and against tokens, both log2 with n = 0 set apart."""
    columns = ("arm", "weights", "examples", "tokens", "mean", "ci_low", "ci_high", "trials")
    arms = drawn_arms(study, styles)
    curves = {arm.name: points for arm in arms if (points := _curve(arm, "score"))}
    students = {arm.name: points for arm in arms if (points := _curve(arm, "student"))}
    rows = [
        point_row(arm, None, value, weights=weights, examples=n, tokens=tokens)
        for arm in arms
        for weights, drawn in (("scored", curves), ("student", students))
        for n, tokens, value in drawn.get(arm.name, ())
    ]
    for row in rows:
        del row["x"]
    if not curves:
        unlike = any(trial.matrix is None for trial in study.trials)
        why = "No mean learning curve: some task has a metric where lower is better."
        return empty(why if unlike else "No learning curves were taken."), columns, rows
    trained = [arm.name for arm in arms if arm.name in curves and (arm.trains or len(curves) == 1)] or list(curves)
    pages = pages_of(trained, always=[study.reference.name] if study.reference else [])
    return [_page(page, curves, students, styles) for page in pages], columns, rows


def _page(names: Sequence[str], curves: Curves, students: Curves, styles: dict[str, Look]) -> Figure:
    figure = new_figure(PAGE, 2.5)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, exact, label in ((left, True, "examples of the task"), (right, False, "tokens spent on the task")):
        lines, thin = (
            {n: [(x if exact else spent, v) for x, spent, v in drawn[n]] for n in names if n in drawn}
            for drawn in (curves, students)
        )
        grid = sorted({x for line in lines.values() for x, _ in line if x > 0})
        zero = math.log2(grid[0]) - max(0.8, 0.12 * math.log2(grid[-1] / grid[0])) if grid else 0.0
        for name, line in thin.items():
            _student(axes, line, styles[name], zero)
        for name, line in lines.items():
            _learning_curve(axes, line, styles[name], zero, band=len(lines) <= BANDS)
        _log_axis(axes, grid, zero, exact=exact)
        axes.set_xlabel(label)
    left.set_ylabel("score on the task (%)")
    values = [value for points in (*curves.values(), *students.values()) for *_, value in points]
    ends = [end for v in values for end in ((v.mean, v.low, v.high) if drawable(v) else (v.mean,)) if end is not None]
    left.set_ylim(limits([100 * end for end in ends], 4))
    legend(figure, names, styles)
    return figure


def _curve(arm: Arm, of: Literal["score", "student"]) -> list[tuple[float, float, Estimate]]:
    """(examples, mean tokens, score) at the grid points every curve of the arm has; tasks averaged within a trial.

    A task that has fewer examples than others counts beyond its end with where it ended.  Empty where a curve is
    missing, or has no scores ``of`` this.
    """
    if not arm.sequential:
        return []
    curves = {trial.key: trial.record.curves for trial in arm.trials}
    # Without a matrix some task is better the lower, and a mean with it says nothing.
    if not all(curves.values()) or any(trial.matrix is None for trial in arm.trials):
        return []
    if not all(getattr(curve, of) for group in curves.values() for curve in group):
        return []
    every = [curve.examples for group in curves.values() for curve in group]
    shared = [n for n in sorted(set().union(*every)) if all(n in grid or n > grid[-1] for grid in every)]
    points = []
    for n in shared:
        at = {
            key: [(getattr(c, of)[i], c.tokens[i]) for c in group for i in [_place(c.examples, n)]]
            for key, group in curves.items()
        }
        scores = {key: float(np.mean([score for score, _ in pairs])) for key, pairs in at.items()}
        tokens = float(np.mean([token for pairs in at.values() for _, token in pairs]))
        points.append((float(n), tokens, estimate(scores, SHARE)))
    return points


def _place(grid: Sequence[int], n: int) -> int:
    """Where n stands in the grid, or where that ends before."""
    return grid.index(n) if n in grid else len(grid) - 1


def _student(axes: Axes, points: list[tuple[float, Estimate]], look: Look, zero: float) -> None:
    """The student of an average: thin dashes in its colour, behind it."""
    x = [math.log2(n) if n > 0 else zero for n, _ in points]
    y = [value.mean * 100 for _, value in points]
    axes.plot(x, y, color=look.color, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1.5)


def _learning_curve(axes: Axes, points: list[tuple[float, Estimate]], look: Look, zero: float, *, band: bool) -> None:
    """A line with its band; the start at n = 0 is a hollow point, joined by dots, as no log scale reaches it."""
    x = [math.log2(n) if n > 0 else zero for n, _ in points]
    y = [value.mean * 100 for _, value in points]
    if len(set(x)) < len(x):
        axes.axhline(y[0], color=look.color, linestyle=(0, (2, 2)), linewidth=1.2)
        return
    start = 1 if points[0][0] == 0 else 0
    axes.plot(x[: start + 1], y[: start + 1], color=look.color, linewidth=1, linestyle=(0, (1, 2)))
    axes.plot(x[start:], y[start:], color=look.color, linestyle=look.line, marker=look.marker, markersize=3.2)
    axes.plot(x[:start], y[:start], color=look.color, marker=look.marker, markersize=3.2, markerfacecolor=PAPER)
    if band and all(drawable(value) for _, value in points):
        low, high = ([getattr(value, side) * 100 for _, value in points] for side in ("low", "high"))
        axes.fill_between(x, low, high, color=look.color, alpha=0.13, linewidth=0)


def _log_axis(axes: Axes, grid: list[float], zero: float, *, exact: bool) -> None:
    """Ticks at 0 and at the grid (or powers of two in k), and two strokes where the axis leaves its scale."""
    if exact:
        ticks = [math.log2(n) for n in grid][:: max(1, len(grid) // 8)]
    else:
        # 1k times powers of two: even steps on the axis, and round numbers.
        low, high = (math.log2(grid[0] / 1000), math.log2(grid[-1] / 1000)) if grid else (0.0, 0.0)
        step = max(1, math.ceil((high - low) / 6))
        ticks = [t + math.log2(1000) for t in range(math.ceil(low), math.floor(high) + 1, step)] or [
            low + math.log2(1000)
        ]
    if not grid:
        ticks = []
    axes.set_xticks([zero, *ticks], ["0", *(_short(2**tick) for tick in ticks)])
    axes.minorticks_off()
    if ticks and grid:
        between = (zero + math.log2(grid[0])) / 2
        axes.plot(
            [between],
            [0],
            marker=[(-1, -2), (1, 2)],
            markersize=6,
            color=INK,
            clip_on=False,
            transform=axes.get_xaxis_transform(),
            linestyle="none",
        )


def _short(n: float) -> str:
    """512, 4k, 1.2M: at most two digits that matter where letters help."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.2g}{letter}" if n < 100 * size else f"{n / size:.0f}{letter}"
    return f"{n:.0f}"
