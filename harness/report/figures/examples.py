"""Accuracy against the number of training examples, where arms of a study were trained on different numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from harness.report.arms import Arm
from harness.report.figures.palette import Look, looks
from harness.report.figures.parts import Drawing, Rows, Spot, empty, limits, mark, point_row, spans, spots_of
from harness.report.figures.style import PAGE, TICKS, legend, new_figure, note
from harness.report.metric import Metric
from harness.report.metrics import metric
from harness.report.numbers import listed
from harness.report.study import StudyResults

PANELS = ("average_accuracy", "learning_accuracy")
KEY = "examples"
#: How far the lines lie apart at one number of examples, in doublings: so that intervals don't hide each other.
APART = 0.06


def varies(study: StudyResults) -> bool:
    """Whether some arms were trained on more examples of each task than others."""
    return len({_examples(arm) for arm in study.arms if arm.trials and arm.trains} - {None}) > 1


def accuracy_by_examples(study: StudyResults, styles: dict[str, Look]) -> Drawing:
    """Each point is a separate training; a line joins the arms that differ in nothing but their examples."""
    columns = ("arm", "line", "metric", "examples", "mean", "ci_low", "ci_high", "trials")
    lines: dict[str, dict[int, Arm]] = {}
    for arm in (arm for arm in study.arms if arm.trials and arm.trains):
        if (examples := _examples(arm)) is not None:
            lines.setdefault(line_of(arm), {})[examples] = arm
    drawn = looks((name, name.partition("@")[0]) for name in lines)
    panels = [metric(name) for name in PANELS]
    rows: Rows = []
    for name, arms in lines.items():
        for panel in panels:
            for examples, arm in sorted(arms.items()):
                if value := arm.estimate(panel.name):
                    row = point_row(arm, None, value, line=name, metric=panel.name, examples=examples)
                    rows.append({key: row[key] for key in columns})
    if not rows:
        return empty("No arm has an average accuracy."), columns, rows
    figure = new_figure(PAGE, 2.5)
    untrained = [arm for arm in study.arms if arm.trials and not arm.trains]
    off: dict[str, float] = {}
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        _panel(axes, panel, lines, drawn)
        off |= _across(axes, untrained, panel, styles)
    if off:
        note(figure, f"Off the axis: {listed([f'{name}, {value:.1f} %' for name, value in off.items()])}.")
    legend(figure, lines, drawn)
    return [figure], columns, rows


def _across(axes: Axes, arms: Sequence[Arm], of: Metric, styles: dict[str, Look]) -> dict[str, float]:
    """Draw what is not trained as lines with names; returns the values of those that would lie off the axis."""
    low, high = axes.get_ylim()
    off = {}
    for arm in arms:
        if value := arm.estimate(of.name):
            y, look = of.scale * value.mean, styles[arm.name]
            if not low < y < high:
                off[arm.name] = y
                continue
            axes.axhline(y, color=look.color, linestyle=(0, (4, 2)), linewidth=1, zorder=1)
            axes.annotate(look.label, (0.99, y), (0, 2), textcoords="offset points",
                          xycoords=("axes fraction", "data"), ha="right", fontsize=TICKS)  # fmt: skip
    return off


def line_of(arm: Arm) -> str:
    """The arm's name without its number of examples: ``lora@examples=16`` is of the line ``lora``."""
    parts = [part for part in arm.setting.split(",") if not part.startswith(f"{KEY}=")]
    setting = ",".join(parts)
    return arm.method if setting in ("", "default") else f"{arm.method}@{setting}"


def _examples(arm: Arm) -> int | None:
    return arm.trials[0].record.spec.training.get(KEY)


def _panel(axes: Axes, of: Metric, lines: Mapping[str, Mapping[int, Arm]], styles: dict[str, Look]) -> None:
    series = {}
    for place, (name, arms) in enumerate(lines.items()):
        shift = APART * (place - (len(lines) - 1) / 2)
        spots = [Spot.of(math.log2(n) + shift, values, of.ends) for n, arm in sorted(arms.items())
                 if (values := arm.values(of.name))]  # fmt: skip
        series[name] = spots
        look = styles[name]
        axes.plot([s.x for s in spots], [of.scale * s.value.mean for s in spots], color=look.color, linestyle=look.line)
        for spot in spots:
            mark(axes, spot, look, of.scale)
    ticks = sorted({n for arms in lines.values() for n in arms})
    axes.set_xticks([math.log2(n) for n in ticks], [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training examples of each task")
    axes.set_ylabel(of.heading.lower().replace(", ", " (") + ")")
    axes.set_ylim(limits(spans(spots_of(series), of.scale), 4))
