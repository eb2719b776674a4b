"""Accuracy against the number of training examples, where arms of a study were trained on different numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.report.arms import Arm
from harness.report.estimates import certain
from harness.report.figures.parts import Rows, empty, limits, point_row, spans, values_of, whisker
from harness.report.figures.style import GRID, Look, legend, looks, new_figure
from harness.report.metric import Metric
from harness.report.metrics import metric
from harness.report.study import StudyResults

PANELS = ("average_accuracy", "learning_accuracy")
KEY = "examples"
#: How far the lines lie apart at one number of examples, in doublings: so that intervals don't hide each other.
APART = 0.06


def varies(study: StudyResults) -> bool:
    """Whether some arms were trained on more examples of each task than others."""
    return len({_examples(arm) for arm in study.arms if arm.trials and arm.trains} - {None}) > 1


def accuracy_by_examples(study: StudyResults, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
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
    figure = new_figure(8.4, 3.6)
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        _panel(axes, panel, lines, drawn)
        for arm in (arm for arm in study.arms if arm.trials and not arm.trains):
            if value := arm.estimate(panel.name):
                axes.axhline(100 * value.mean, color=GRID, linestyle=(0, (4, 2)), linewidth=1.2, zorder=1)
    legend(figure, lines, drawn)
    return figure, columns, rows


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
        points = [(math.log2(n) + shift, certain(value)) for n, arm in sorted(arms.items())
                  if (value := arm.estimate(of.name))]  # fmt: skip
        series[name] = points
        look = styles[name]
        axes.plot([x for x, _ in points], [of.scale * value.mean for _, value in points], color=look.color,
                  linestyle=look.line, linewidth=1.2)  # fmt: skip
        for x, value in points:
            whisker(axes, x, value, look, of.scale, linestyle="none")
    ticks = sorted({n for arms in lines.values() for n in arms})
    axes.set_xticks([math.log2(n) for n in ticks], [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training examples of each task")
    axes.set_ylabel(of.heading.lower().replace(", ", " (") + ")")
    axes.set_ylim(limits(spans(values_of(series), of.scale), 4))
