"""Intruder dimensions by type of matrix and by layer."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.statistics import FROM_ZERO, Estimate
from harness.report.estimates import estimate
from harness.report.figures.intruders_at_end import LABELS, intruders_of_arms
from harness.report.figures.parts import POINT, Rows, drawn_arms, empty, from_zero, point_row, spans, whisker
from harness.report.figures.style import Look, drawn_name, legend, new_figure
from harness.report.study import StudyResults
from harness.store.intruders import ByLayer


def by_place(study: StudyResults, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Count and distance after the last task by type of projection and by layer."""
    columns = ("metric", "place", *POINT)
    arms, by_name = intruders_of_arms(drawn_arms(study, styles)), {arm.name: arm for arm in study.arms}
    rows: Rows = []
    series: dict[tuple[str, str], dict[str, dict[str, Estimate]]] = {}
    for metric in LABELS:
        for place in ("by_type", "by_layer"):
            for name, taken in arms.items():
                numbers = {key: _numbers(getattr(intruders, place), metric) for key, intruders in taken.items()}
                for x in next(iter(numbers.values())):
                    if all(x in at for at in numbers.values()):
                        value = estimate({key: float(at[x]) for key, at in numbers.items()}, FROM_ZERO)
                        series.setdefault((metric, place), {}).setdefault(name, {})[x] = value
                        rows.append(point_row(by_name[name], x, value, metric=metric, place=place))
    if not series:
        return empty("No intruder dimensions were counted by matrix."), columns, rows
    figure = new_figure(8.4, 5.6)
    panels = figure.subplots(2, 2, squeeze=False, width_ratios=(1, 1.4))
    for line, metric in zip(panels, LABELS, strict=True):
        for axes, place in zip(line, ("by_type", "by_layer"), strict=True):
            panel = series.get((metric, place), {})
            _place(axes, panel, styles, "type" if place == "by_type" else "layer")
            values = [value for points in panel.values() for value in points.values()]
            held = spans(values) if place == "by_type" else [value.mean for value in values]
            axes.set_ylim(from_zero(held, metric == "count"))
        line[0].set_ylabel(LABELS[metric])
    legend(figure, arms, styles)
    return figure, columns, rows


def _numbers(places: ByLayer, metric: str) -> dict[str, float]:
    """The metric by name of the place."""
    return dict(zip(places.names, getattr(places, metric).tolist(), strict=True))


def _place(axes: Axes, arms: dict[str, dict[str, Estimate]], styles: dict[str, Look], what: str) -> None:
    """One position per type or layer; layers are in the order of their numbers and joined by lines."""
    names = list(dict.fromkeys(name for values in arms.values() for name in values))
    if what == "layer":
        names.sort(key=lambda name: (not name.isdecimal(), len(name) if name.isdecimal() else 0, name))
    for nth, (arm, values) in enumerate(arms.items()):
        look = styles[arm]
        measured = [name for name in names if name in values]
        if what == "layer":
            x = [names.index(name) for name in measured]
            axes.plot(x, [values[name].mean for name in measured], color=look.color, linestyle=look.line, linewidth=1.2)
            continue
        for name in measured:
            shift = (nth - (len(arms) - 1) / 2) * min(0.12, 0.8 / len(arms))
            whisker(axes, names.index(name) + shift, values[name], look)
    step = max(1, len(names) // 10) if what == "layer" else 1
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if what == "type" else {}
    axes.set_xticks(range(0, len(names), step), [drawn_name(name) for name in names[::step]], **turned)
    axes.set_xlabel("type of projection" if what == "type" else "layer")
