"""Intruder dimensions over the stream."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.statistics import FROM_ZERO, Estimate
from harness.report.arms import Arm
from harness.report.estimates import estimate
from harness.report.figures.over_stream import Series, lines_over_stream, task_ticks
from harness.report.figures.parts import (
    POINT,
    Rows,
    bars,
    drawn_arms,
    empty,
    from_zero,
    grey_lines,
    other_arms,
    point_row,
    spans,
    values_of,
)
from harness.report.figures.style import INK, Look, legend, new_figure
from harness.report.study import StudyResults
from harness.report.trial import Trial


def intruders(study: StudyResults, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Count of intruder dimensions and their distance, after each task; a stem per arm if measured only once.

    Arms without a look that have intruders are grey lines among the counts: arms are drawn by their accuracy, which
    may leave out those with the most intruders.
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
    """(task, mean over trials) of a metric, for each task after which every trial of the arm has it."""
    last = max(len(trial.record.intruders) for trial in arm.trials)
    points = []
    for t in range(1 if arm.sequential else max(1, last), last + 1):
        values = {trial.key: _taken(trial, t, metric) for trial in arm.trials}
        taken = {key: value for key, value in values.items() if value is not None}
        if len(taken) == len(values):
            points.append((t, estimate(taken, FROM_ZERO)))
    return points


def _taken(trial: Trial, t: int, metric: str) -> float | None:
    taken = trial.record.intruders[t - 1] if len(trial.record.intruders) >= t else None
    return None if taken is None else float(getattr(taken, metric))


def _intruder_lines(
    axes: Axes, study: StudyResults, series: Series, styles: dict[str, Look], label: str, stages: list[int], first: bool
) -> None:
    lines_over_stream(axes, series, styles)
    task_ticks(axes, study, stages)
    axes.set_ylabel(label)
    axes.set_ylim(from_zero(spans(values_of(series)), first))


def _intruder_points(
    axes: Axes, study: StudyResults, series: Series, styles: dict[str, Look], label: str, stages: list[int], first: bool
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
