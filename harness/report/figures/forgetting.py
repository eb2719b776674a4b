"""Mean forgetting over the stream."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from harness.analysis.continual import forgetting_over_stream
from harness.analysis.statistics import SHARES_APART
from harness.report.estimates import certain, estimate
from harness.report.figures.over_stream import Series, lines_over_stream, task_ticks
from harness.report.figures.parts import POINT, Rows, drawn_arms, empty, limits, point_row, spans, values_of
from harness.report.figures.style import INK, Look, legend, new_figure
from harness.report.study import StudyResults


def forgetting(study: StudyResults, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Mean forgetting of the tasks learnt so far, after each task from the second on."""
    series: Series = {}
    rows: Rows = []
    for arm in drawn_arms(study, styles):
        if not arm.sequential or any(trial.matrix is None for trial in arm.trials):
            continue
        traces = {trial.key: forgetting_over_stream(certain(trial.matrix)) for trial in arm.trials}
        for t in range(2, min(map(len, traces.values())) + 1):
            value = estimate({key: certain(trace[t - 1]) for key, trace in traces.items()}, SHARES_APART)
            series.setdefault(arm.name, []).append((t, value))
            rows.append(point_row(arm, t, value))
    if not series:
        return empty("Forgetting needs two tasks."), POINT, rows
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    axes.axhline(0, color=INK, linewidth=0.7)
    lines_over_stream(axes, series, styles, 100)
    stages = sorted({x for points in series.values() for x, _ in points})
    task_ticks(axes, study, stages)
    axes.set_ylim(limits([*spans(values_of(series), 100), 0], 2))
    axes.set_ylabel("forgetting of tasks learnt so far (points)")
    legend(figure, series, styles)
    return figure, POINT, rows
