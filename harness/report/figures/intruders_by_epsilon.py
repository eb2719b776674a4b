"""Intruder dimensions over the threshold that defines them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from harness.analysis.statistics import FROM_ZERO
from harness.report.figures.intruders_at_end import intruders_of_arms
from harness.report.figures.palette import Look
from harness.report.figures.parts import (
    CLEAR,
    POINT,
    Drawing,
    Rows,
    Series,
    Spot,
    drawn_arms,
    empty,
    from_zero,
    mark,
    pages_of,
    point_row,
    spans,
    spots_of,
)
from harness.report.figures.style import COLUMN, PAGE, legend, new_figure
from harness.report.study import StudyResults

#: Beyond this count the axis is logarithmic, and linear up to 1: arms lie decades apart.
FAR = 50


def by_epsilon(study: StudyResults, styles: dict[str, Look]) -> Drawing:
    """Count after the last task over the threshold below which a best |cosine| makes an intruder."""
    by_name = {arm.name: arm for arm in study.arms}
    lines: Series = {}
    rows: Rows = []
    for name, taken in intruders_of_arms(drawn_arms(study, styles)).items():
        for epsilon in next(iter(taken.values())).by_epsilon:
            counts = {key: intruders.by_epsilon.get(epsilon) for key, intruders in taken.items()}
            known = {key: float(count) for key, count in counts.items() if count is not None}
            if len(known) == len(counts):
                spot = Spot.of(float(epsilon), known, FROM_ZERO)
                lines.setdefault(name, []).append(spot)
                rows.append(point_row(by_name[name], epsilon, spot.value))
    if not lines:
        return empty("No intruder dimensions were counted."), POINT, rows
    if not any(spans(spots_of(lines))):
        top = max(spot.x for spot in spots_of(lines))
        return empty(f"No trial has an intruder dimension, at any threshold up to {top:g}."), POINT, rows
    pages = pages_of(list(lines), always=[study.reference.name] if study.reference else [])
    return [_page(page, lines, styles) for page in pages], POINT, rows


def _page(names: Sequence[str], lines: Series, styles: dict[str, Look]) -> Figure:
    figure = new_figure(COLUMN if len(names) <= CLEAR else PAGE, 2.5)
    axes = figure.subplots()
    for name in names:
        look = styles[name]
        axes.plot([spot.x for spot in lines[name]], [spot.value.mean for spot in lines[name]], color=look.color,
                  linestyle=look.line, marker="" if len(names) <= CLEAR else look.marker)  # fmt: skip
        for spot in lines[name] if len(names) <= CLEAR else ():
            mark(axes, spot, look)
    axes.set_xlabel("threshold ε on the best |cosine|")
    axes.set_ylabel("intruder dimensions")
    axes.set_ylim(from_zero(spans(spots_of(lines)), counts=True))
    if axes.get_ylim()[1] > FAR:
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set_ylim(-0.2, 2 * axes.get_ylim()[1])
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    legend(figure, names, styles)
    return figure
