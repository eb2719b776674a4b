"""Intruder dimensions over the threshold that defines them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from harness.analysis.statistics import FROM_ZERO, Estimate
from harness.report.estimates import estimate
from harness.report.figures.intruders_at_end import intruders_of_arms
from harness.report.figures.parts import (
    POINT,
    Rows,
    drawn_arms,
    empty,
    from_zero,
    grey_lines,
    other_arms,
    point_row,
    spans,
    values_of,
    whisker,
)
from harness.report.figures.style import Look, legend, new_figure
from harness.report.study import StudyResults

#: Beyond this count the axis is logarithmic, and linear up to 1: arms lie decades apart.
FAR = 50


def by_epsilon(study: StudyResults, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Count after the last task over the threshold below which a best |cosine| makes an intruder.

    Arms without a look that have intruders are grey lines, as in the figure along the stream.
    """
    by_name = {arm.name: arm for arm in study.arms}
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    rows: Rows = []
    for name, taken in intruders_of_arms((*drawn_arms(study, styles), *other_arms(study, styles))).items():
        if name not in styles and not any(intruders.count for intruders in taken.values()):
            continue
        for epsilon in next(iter(taken.values())).by_epsilon:
            counts = {key: intruders.by_epsilon.get(epsilon) for key, intruders in taken.items()}
            if all(count is not None for count in counts.values()):
                value = estimate({key: float(count) for key, count in counts.items() if count is not None}, FROM_ZERO)
                lines.setdefault(name, []).append((float(epsilon), value))
                rows.append(point_row(by_name[name], epsilon, value))
    if not lines:
        return empty("No intruder dimensions were counted."), POINT, rows
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    drawn_lines = {name: points for name, points in lines.items() if name in styles}
    for name, points in drawn_lines.items():
        look = styles[name]
        axes.plot([x for x, _ in points], [v.mean for _, v in points], color=look.color, linestyle=look.line)
        for x, value in points:
            whisker(axes, x, value, look)
    axes.set_xlabel("threshold ε on the best |cosine|")
    axes.set_ylabel("intruder dimensions (all matrices)")
    axes.set_ylim(from_zero(spans(values_of(drawn_lines)), counts=True))
    grey_lines(axes, {name: points for name, points in lines.items() if name not in styles})
    if axes.get_ylim()[1] > FAR:
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set_ylim(-0.2, 2 * axes.get_ylim()[1])
    legend(figure, drawn_lines, styles)
    return figure, POINT, rows
