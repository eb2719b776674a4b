"""Mean forgetting over the stream, a panel an arm."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.continual import forgetting_over_stream
from harness.analysis.statistics import SHARES_APART
from harness.report.estimates import certain
from harness.report.figures.over_stream import task_ticks
from harness.report.figures.palette import Look, shown_name
from harness.report.figures.parts import (
    FEW,
    POINT,
    Drawing,
    Rows,
    Series,
    Spot,
    drawn_arms,
    empty,
    limits,
    mark,
    pages_of,
    point_row,
    spans,
    spots_of,
)
from harness.report.figures.style import HIGH, INK, LINE_HEIGHT, PAGE, TICKS, new_figure
from harness.report.study import StudyResults

#: Inches of a panel without its title, and the most panels side by side.
PANEL, ACROSS = 0.98, 4
#: Letters of a name above a panel.
TITLE = 25


def forgetting(study: StudyResults, styles: dict[str, Look]) -> Drawing:
    """Mean forgetting of the tasks learnt so far, after each task from the second on; the reference in every panel."""
    series: Series = {}
    rows: Rows = []
    for arm in drawn_arms(study, styles):
        if not arm.sequential or any(trial.matrix is None for trial in arm.trials):
            continue
        traces = {trial.key: forgetting_over_stream(certain(trial.matrix)) for trial in arm.trials}
        for t in range(2, min(map(len, traces.values())) + 1):
            spot = Spot.of(t, {key: certain(trace[t - 1]) for key, trace in traces.items()}, SHARES_APART)
            series.setdefault(arm.name, []).append(spot)
            rows.append(point_row(arm, t, spot.value))
    if not series:
        return empty("Forgetting needs two tasks."), POINT, rows
    trained = [arm.name for arm in drawn_arms(study, styles) if arm.name in series and arm.trains] or list(series)
    title = LINE_HEIGHT * max(1 + shown_name(name, TITLE).count("\n") for name in series)
    pages = pages_of(trained, ACROSS * int((HIGH - 0.5) / (PANEL + title)))
    return [_page(page, series, study, styles, PANEL + title) for page in pages], POINT, rows


def _page(names: list[str], series: Series, study: StudyResults, styles: dict[str, Look], high: float) -> Figure:
    across = min(ACROSS, len(names))
    down = math.ceil(len(names) / across)
    figure = new_figure(PAGE * max(across, 2) / ACROSS if across < ACROSS else PAGE, high * down + 0.35)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    partner = study.reference.name if study.reference and study.reference.name in series else None
    stages = sorted({int(spot.x) for spot in spots_of(series)})
    low, top = limits([*spans(spots_of(series), 100), 0], 2)
    for axes, name in zip(panels.flat, names, strict=False):
        if partner and name != partner:
            behind = series[partner]
            axes.plot([s.x for s in behind], [100 * s.value.mean for s in behind], color=INK, alpha=0.45, lw=0.8,
                      ls=(0, (2, 1.5)), zorder=1)  # fmt: skip
        _panel(axes, series[name], styles[name])
        axes.set_title(shown_name(name, TITLE), fontsize=TICKS)
        task_ticks(axes, stages)
        axes.set_xlabel("")
    panels.flat[0].set_ylim(low, top)
    for place, axes in enumerate(panels.flat):
        axes.set_visible(place < len(names))
        if place < len(names) <= place + across:  # the lowest of its column
            axes.tick_params(labelbottom=True)
    figure.supylabel("forgetting (points)", fontsize="medium")
    figure.supxlabel("after training task", fontsize="medium")
    return figure


def _panel(axes: Axes, spots: list[Spot], look: Look) -> None:
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.plot([s.x for s in spots], [100 * s.value.mean for s in spots], color=look.color)
    for spot in spots:
        mark(axes, spot, look, 100)
    if spots[0].value.n < FEW:
        for trial in zip(*(spot.trials for spot in spots), strict=True):
            axes.plot([s.x for s in spots], [100 * v for v in trial], color=look.color, linewidth=0.5, alpha=0.4)
