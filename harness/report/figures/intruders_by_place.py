"""Intruder dimensions by type of matrix and by layer, as maps with a row an arm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from harness.analysis.statistics import FROM_ZERO, Estimate
from harness.report.estimates import estimate
from harness.report.figures.heat_maps import shaded
from harness.report.figures.intruders_at_end import LABELS, NO_COUNTS, intruders_of_arms
from harness.report.figures.palette import Look
from harness.report.figures.parts import POINT, Drawing, Rows, drawn_arms, empty, pages_of, point_row
from harness.report.figures.style import PAGE, drawn_name, new_figure, note, one_line, power_of_ten
from harness.report.study import StudyResults
from harness.store.intruders import ByLayer

PLACES = {"by_type": "type of projection", "by_layer": "layer"}
#: (metric, place) -> arm -> name of a type or layer -> the mean over trials.
Places = dict[tuple[str, str], dict[str, dict[str, Estimate]]]
#: The most arms on a page.
ARMS = 24


def by_place(study: StudyResults, styles: dict[str, Look]) -> Drawing:
    """Count and distance after the last task by type of projection and by layer."""
    columns = ("metric", "place", *POINT)
    arms, by_name = intruders_of_arms(drawn_arms(study, styles)), {arm.name: arm for arm in study.arms}
    rows: Rows = []
    series: Places = {}
    for metric in LABELS:
        for place in PLACES:
            for name, taken in arms.items():
                numbers = {key: _numbers(getattr(intruders, place), metric) for key, intruders in taken.items()}
                for x in next(iter(numbers.values())):
                    if all(x in at for at in numbers.values()):
                        value = estimate({key: float(at[x]) for key, at in numbers.items()}, FROM_ZERO)
                        series.setdefault((metric, place), {}).setdefault(name, {})[x] = value
                        rows.append(point_row(by_name[name], x, value, metric=metric, place=place))
    if not series:
        return empty("No intruder dimensions were counted by matrix."), columns, rows
    trained = [name for name in arms if by_name[name].trains] or list(arms)
    return [_page(page, series) for page in pages_of(trained, ARMS)], columns, rows


def _numbers(places: ByLayer, metric: str) -> dict[str, float]:
    """The metric by name of the place."""
    return dict(zip(places.names, getattr(places, metric).tolist(), strict=True))


def _page(names: Sequence[str], series: Places) -> Figure:
    counted = any(value.mean for place in PLACES for arm in series.get(("count", place), {}).values()
                  for value in arm.values())  # fmt: skip
    metrics = [metric for metric in LABELS if metric == "distance" or counted]
    places = [place for place in PLACES if any((metric, place) in series for metric in metrics)]
    high = 0.15 * len(names)
    figure = new_figure(PAGE, len(metrics) * (high + 0.85))
    panels = figure.subplots(len(metrics), len(places), squeeze=False, width_ratios=(1, 2.2)[: len(places)])
    for line, metric in zip(panels, metrics, strict=True):
        norm = _norm(metric, [each for place in places for each in series.get((metric, place), {}).values()])
        for nth, (axes, place) in enumerate(zip(line, places, strict=True)):
            image = _map(axes, series.get((metric, place), {}), names, norm)
            axes.set_yticks(range(len(names)), [one_line(n) for n in names] if nth == 0 else [""] * len(names))
            axes.set_xlabel(PLACES[place])
        bar = figure.colorbar(image, ax=line, pad=0.01, aspect=12, shrink=min(1.0, 1.3 / max(high, 0.1)))
        line[0].set_title(LABELS[metric])
        bar.outline.set_visible(False)
        if isinstance(norm, LogNorm):
            bar.ax.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
            bar.ax.yaxis.set_minor_formatter(NullFormatter())
    if not counted:
        note(figure, NO_COUNTS.format(where="after the last task"))
    return figure


def _norm(metric: str, arms: Sequence[dict[str, Estimate]]) -> Normalize:
    """Counts from 0; distances in decades, where they differ by one."""
    means = [value.mean for arm in arms for value in arm.values() if value.mean > 0]
    if metric == "count" or not means or max(means) < 10 * min(means):
        return Normalize(0, max([*means, 1.0 if metric == "count" else 1e-6]))
    top = max(means)
    return LogNorm(max(min(means), top / 1e4), max(top, 1.01 * min(means)))


def _map(axes: Axes, arms: dict[str, dict[str, Estimate]], names: Sequence[str], norm: Normalize):
    """A row an arm, a column a type or layer; layers in the order of their numbers; what is not there stays empty."""
    columns = list(dict.fromkeys(name for values in arms.values() for name in values))
    if all(name.isdecimal() for name in columns):
        columns.sort(key=int)
    values = np.full((len(names), max(1, len(columns))), np.nan)
    for row, arm in enumerate(names):
        for column, name in enumerate(columns):
            if name in arms.get(arm, {}):
                mean = arms[arm][name].mean
                values[row, column] = max(mean, norm.vmin or 0.0) if isinstance(norm, LogNorm) else mean
    image = shaded(axes, values, norm)
    step = max(1, len(columns) // 10)
    long = max(map(len, columns), default=0) > 3
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(range(0, len(columns), step), [drawn_name(name) for name in columns[::step]], **turned)
    return image
