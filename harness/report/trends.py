"""Figures along the stream (forgetting, intruder dimensions) and along one task (sample efficiency)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.continual import forgetting_over_stream
from harness.analysis.statistics import Estimate
from harness.report.drawing import (
    POINT,
    Rows,
    bars,
    drawable,
    drawn_arms,
    empty,
    from_zero,
    grey_lines,
    limits,
    other_arms,
    point_row,
    spans,
    values_of,
    whisker,
)
from harness.report.frame import NOT_SEQUENTIAL, Arm, Trial, certain, estimate
from harness.report.study import Study
from harness.report.style import INK, PAPER, Look, drawn_name, legend, new_figure

Series = dict[str, list[tuple[int, Estimate]]]

#: Curves that have a band each at most: more of them hide the lines.
BANDS = 6


def _over_stream(axes: Axes, series: Series, styles: dict[str, Look], scale: float = 1.0) -> None:
    """Lines with intervals, one an arm, moved aside a little so that intervals don't hide each other."""
    for nth, (name, points) in enumerate(series.items()):
        shift = (nth - (len(series) - 1) / 2) * min(0.07, 0.5 / len(series))
        look = styles[name]
        axes.plot([x + shift for x, _ in points], [v.mean * scale for _, v in points], color=look.color, ls=look.line)
        for x, value in points:
            whisker(axes, x + shift, value, look, scale)


def _task_ticks(axes: Axes, study: Study, stages: list[int]) -> None:
    """Ticks at the stages, named by the task just learnt if there is one order."""
    streams = set(study.streams.values())
    stream = [drawn_name(task) for task in next(iter(streams))] if len(streams) == 1 else []
    if stream and len(stages) > 3:
        axes.set_xticks(
            stages, [f"{t} {stream[t - 1]}" for t in stages], rotation=30, ha="right", rotation_mode="anchor"
        )
    else:
        axes.set_xticks(stages, [f"{t}\n{stream[t - 1]}" if stream else str(t) for t in stages])
    axes.set_xlim(min(stages) - 0.45, max(stages) + 0.45)
    axes.set_xlabel("after training task")
    axes.grid(False, axis="x")


def forgetting(study: Study, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Mean forgetting of the tasks learnt so far, after each task from the second on."""
    series: Series = {}
    rows: Rows = []
    for arm in drawn_arms(study, styles):
        if arm.method in NOT_SEQUENTIAL or any(trial.matrix is None for trial in arm.trials):
            continue
        traces = {trial.key: forgetting_over_stream(certain(trial.matrix)) for trial in arm.trials}
        for t in range(2, min(map(len, traces.values())) + 1):
            value = estimate({key: certain(trace[t - 1]) for key, trace in traces.items()})
            series.setdefault(arm.name, []).append((t, value))
            rows.append(point_row(arm, t, value))
    if not series:
        return empty("Forgetting needs two tasks."), POINT, rows
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    axes.axhline(0, color=INK, linewidth=0.7)
    _over_stream(axes, series, styles, 100)
    stages = sorted({x for points in series.values() for x, _ in points})
    _task_ticks(axes, study, stages)
    axes.set_ylim(limits([*spans(values_of(series), 100), 0], 2))
    axes.set_ylabel("forgetting of tasks learnt so far (points)")
    legend(figure, series, styles)
    return figure, POINT, rows


def intruders(study: Study, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Count of intruder dimensions and their distance, after each task; a bar an arm if only taken once.

    Arms without a look that have intruders are grey lines among the counts: which arms are drawn goes by accuracy, and
    those with the most intruders may be none of them.
    """
    columns = ("metric", *POINT)
    panels = {"count": "intruder dimensions (all matrices)", "distance": "intruder distance (1 − best |cos|)"}
    drawn = drawn_arms(study, styles)
    others = other_arms(study, styles)
    series = {metric: {arm.name: each for arm in drawn if (each := _measured(arm, metric))} for metric in panels}
    counted = {arm.name: _measured(arm, "count") for arm in others}
    behind = {name: points for name, points in counted.items() if any(value.mean for _, value in points)}
    rows: Rows = []
    for metric, lines in (("count", series["count"] | behind), ("distance", series["distance"])):
        for arm in (*drawn, *others):
            rows += [point_row(arm, t, value, metric=metric) for t, value in lines.get(arm.name, ())]
    if not series["count"]:
        return empty("No intruder dimensions were measured."), columns, rows
    stages = sorted({x for points in series["count"].values() for x, _ in points})
    figure = new_figure(8.4, 3.4 if len(stages) > 1 else 1.2 + 0.3 * len(series["count"]))
    for nth, (axes, (metric, label)) in enumerate(zip(figure.subplots(1, 2), panels.items(), strict=True)):
        draw = _intruder_lines if len(stages) > 1 else _intruder_points
        draw(axes, study, series[metric], styles, label, stages, nth == 0)
        if nth == 0 and len(stages) > 1:
            grey_lines(axes, behind)
    if len(stages) > 1:
        legend(figure, series["count"], styles)
    return figure, columns, rows


def _measured(arm: Arm, metric: str) -> list[tuple[int, Estimate]]:
    """What an arm has of it, after each task after which it was taken of all trials."""
    last = max(len(trial.record.intruders) for trial in arm.trials)
    found = []
    for t in range(max(1, last) if arm.method in NOT_SEQUENTIAL else 1, last + 1):
        values = {trial.key: _taken(trial, t, metric) for trial in arm.trials}
        taken = {key: value for key, value in values.items() if value is not None}
        if len(taken) == len(values):
            found.append((t, estimate(taken)))
    return found


def _taken(trial: Trial, t: int, metric: str) -> float | None:
    taken = trial.record.intruders[t - 1] if len(trial.record.intruders) >= t else None
    return None if taken is None else float(getattr(taken, metric))


def _intruder_lines(
    axes: Axes, study: Study, series: Series, styles: dict[str, Look], label: str, stages: list[int], first: bool
) -> None:
    _over_stream(axes, series, styles)
    _task_ticks(axes, study, stages)
    axes.set_ylabel(label)
    axes.set_ylim(from_zero(spans(values_of(series)), first))


def _intruder_points(
    axes: Axes, study: Study, series: Series, styles: dict[str, Look], label: str, stages: list[int], first: bool
) -> None:
    """Measured after one task only: arms from top to bottom, a stem from zero, the point and its interval."""
    for y, (name, [(_, value)]) in enumerate(series.items()):
        look = styles[name]
        axes.plot([0, value.mean], [y, y], color=look.color, linewidth=1, alpha=0.5)
        axes.errorbar(
            value.mean, y, xerr=bars(value), color=look.color, marker=look.marker, capsize=2.5, elinewidth=1.3
        )
    axes.axvline(0, color=INK, linewidth=0.7)
    axes.set_yticks(range(len(series)), [styles[name].label for name in series] if first else [""] * len(series))
    axes.set_ylim(len(series) - 0.5, -0.5)
    axes.set_xlim(from_zero(spans(values_of(series)), first))
    axes.set_xlabel(f"{label}\nafter task {stages[0]}")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(False, axis="y")


# --- sample efficiency ----------------------------------------------------------------------------------------------


def sample_efficiency(study: Study, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Score on the task being learnt against examples and against tokens, both log2 with n = 0 set apart."""
    columns = ("arm", "examples", "tokens", "mean", "ci_low", "ci_high", "trials")
    curves = {arm.name: points for arm in drawn_arms(study, styles) if (points := _curve(arm))}
    rows = [
        point_row(arm, None, value, examples=n, tokens=tokens)
        for arm in drawn_arms(study, styles)
        for n, tokens, value in curves.get(arm.name, ())
    ]
    for row in rows:
        del row["x"]
    if not curves:
        return empty("No learning curves were taken."), columns, rows
    figure = new_figure(8.4, 3.6)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, exact, label in ((left, True, "examples of the task"), (right, False, "tokens spent on the task")):
        lines = {n: [(x if exact else spent, v) for x, spent, v in points] for n, points in curves.items()}
        grid = sorted({x for line in lines.values() for x, _ in line if x > 0})
        zero = math.log2(grid[0]) - max(0.8, 0.12 * math.log2(grid[-1] / grid[0])) if grid else 0.0
        for name, line in lines.items():
            _learning_curve(axes, line, styles[name], zero, band=len(curves) <= BANDS)
        _log_axis(axes, grid, zero, exact=exact)
        axes.set_xlabel(label)
    left.set_ylabel("score on the task being learnt (%)")
    left.set_ylim(limits(spans((p[2] for points in curves.values() for p in points), 100), 4))
    legend(figure, curves, styles)
    return figure, columns, rows


def _curve(arm: Arm) -> list[tuple[float, float, Estimate]]:
    """(examples, mean tokens, score) at the grid points every curve of the arm has; tasks averaged within a trial."""
    if arm.method in NOT_SEQUENTIAL:
        return []
    curves = {trial.key: trial.record.curves for trial in arm.trials}
    if not all(curves.values()):
        return []
    shared = set.intersection(*(set(curve.examples) for group in curves.values() for curve in group))
    points = []
    for n in sorted(shared):
        at = {
            key: [(c.score[i], c.tokens[i]) for c in group for i in [c.examples.index(n)]]
            for key, group in curves.items()
        }
        scores = {key: float(np.mean([score for score, _ in pairs])) for key, pairs in at.items()}
        tokens = float(np.mean([token for pairs in at.values() for _, token in pairs]))
        points.append((float(n), tokens, estimate(scores)))
    return points


def _learning_curve(axes: Axes, points: list[tuple[float, Estimate]], look: Look, zero: float, *, band: bool) -> None:
    """A line with its band; the start at n = 0 is a hollow point, tied by dots because no scale leads there."""
    x = [math.log2(n) if n > 0 else zero for n, _ in points]
    y = [value.mean * 100 for _, value in points]
    if len(set(x)) < len(x):
        axes.axhline(y[0], color=look.color, linestyle=(0, (2, 2)), linewidth=1.2)
        return
    start = 1 if points[0][0] == 0 else 0
    axes.plot(x[: start + 1], y[: start + 1], color=look.color, linewidth=1, linestyle=(0, (1, 2)))
    axes.plot(x[start:], y[start:], color=look.color, linestyle=look.line, marker=look.marker, markersize=4)
    axes.plot(x[:start], y[:start], color=look.color, marker=look.marker, markersize=4, markerfacecolor=PAPER)
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
            markersize=7,
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
