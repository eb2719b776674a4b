"""Intruder dimensions over the stream."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.statistics import FROM_ZERO
from harness.report.arms import Arm
from harness.report.figures.intruders_at_end import LABELS, NO_COUNTS
from harness.report.figures.over_stream import lines_over_stream, task_ticks
from harness.report.figures.palette import Look
from harness.report.figures.parts import (
    CLEAR,
    FEW,
    POINT,
    Drawing,
    Rows,
    Series,
    Spot,
    bars,
    dots,
    drawn_arms,
    empty,
    from_zero,
    pages_of,
    point_row,
    spans,
    spots_of,
)
from harness.report.figures.style import COLUMN, INK, PAGE, legend, new_figure, note
from harness.report.study import StudyResults
from harness.report.trial import Trial


def intruders(study: StudyResults, styles: dict[str, Look]) -> Drawing:
    """Count of intruder dimensions and their distance, after each task; a stem per arm if measured only once.

    Counts that are 0 everywhere are a sentence.
    """
    columns = ("metric", *POINT)
    drawn = drawn_arms(study, styles)
    series = {metric: {arm.name: each for arm in drawn if (each := _measured(arm, metric))} for metric in LABELS}
    rows: Rows = []
    for metric, lines in series.items():
        for arm in drawn:
            rows += [point_row(arm, int(spot.x), spot.value, metric=metric) for spot in lines.get(arm.name, ())]
    if not series["count"]:
        return empty("No intruder dimensions were measured."), columns, rows
    stages = sorted({int(spot.x) for spot in spots_of(series["count"])})
    metrics = [metric for metric in LABELS if metric == "distance" or any(spans(spots_of(series["count"])))]
    if len(stages) == 1:
        return [_at_the_end(series, metrics, stages[0], styles)], columns, rows
    pages = pages_of(list(series["count"]), always=[study.reference.name] if study.reference else [])
    return [_over_stream(page, series, metrics, styles) for page in pages], columns, rows


def _measured(arm: Arm, metric: str) -> list[Spot]:
    """Means over trials of a metric, for each task after which every trial of the arm has it."""
    last = max(len(trial.record.intruders) for trial in arm.trials)
    points = []
    for t in range(1 if arm.sequential else max(1, last), last + 1):
        values = {trial.key: _taken(trial, t, metric) for trial in arm.trials}
        taken = {key: value for key, value in values.items() if value is not None}
        if len(taken) == len(values):
            points.append(Spot.of(t, taken, FROM_ZERO))
    return points


def _taken(trial: Trial, t: int, metric: str) -> float | None:
    taken = trial.record.intruders[t - 1] if len(trial.record.intruders) >= t else None
    return None if taken is None else float(getattr(taken, metric))


def _over_stream(
    names: Sequence[str],
    series: dict[str, Series],
    metrics: Sequence[str],
    styles: dict[str, Look],
) -> Figure:
    figure = new_figure(PAGE if len(metrics) > 1 or len(names) > CLEAR else COLUMN, 2.5)
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        lines = {name: series[metric][name] for name in names if name in series[metric]}
        lines_over_stream(axes, lines, styles)
        task_ticks(axes, sorted({int(spot.x) for spot in spots_of(series[metric])}))
        axes.set_ylabel(LABELS[metric].partition(" (")[0])
        axes.set_ylim(from_zero(spans(spots_of(series[metric])), metric == "count"))
    if len(metrics) == 1:
        note(figure, NO_COUNTS.format(where="after any task"))
    legend(figure, names, styles)
    return figure


def _at_the_end(series: dict[str, Series], metrics: Sequence[str], stage: int, styles: dict[str, Look]) -> Figure:
    """Measured after one task only: arms from top to bottom, a stem from zero, the point with its trials."""
    names = list(series["distance"])
    high = 0.55 + len(names) * (0.15 + 0.11 * max(styles[name].label.count("\n") for name in names))
    figure = new_figure(PAGE if len(metrics) > 1 else COLUMN, high)
    for nth, (axes, metric) in enumerate(zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True)):
        _stems(axes, series[metric], styles)
        axes.set_yticks(range(len(names)), [styles[name].label for name in names] if nth == 0 else [""] * len(names))
        axes.set_xlim(from_zero(spans(spots_of(series[metric])), metric == "count"))
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(f"{LABELS[metric]}\nafter task {stage}")
    if len(metrics) == 1:
        note(figure, NO_COUNTS.format(where=f"after task {stage}"))
    return figure


def _stems(axes: Axes, lines: Series, styles: dict[str, Look]) -> None:
    for y, (name, [spot]) in enumerate(lines.items()):
        look, value = styles[name], spot.value
        axes.plot([0, value.mean], [y, y], color=look.color, linewidth=0.8, alpha=0.5)
        if value.n < FEW:
            dots(axes, spot.trials, [y] * len(spot.trials), look)
        axes.errorbar(value.mean, y, xerr=bars(value), color=look.color, marker=look.marker, capsize=1.5, elinewidth=1)
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(False, axis="y")
