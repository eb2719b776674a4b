"""What the figures along the stream share: lines with intervals, and ticks at the tasks."""

from __future__ import annotations

from matplotlib.axes import Axes

from harness.analysis.statistics import Estimate
from harness.report.figures.parts import whisker
from harness.report.figures.style import Look, drawn_name
from harness.report.study import StudyResults

Series = dict[str, list[tuple[int, Estimate]]]


def lines_over_stream(axes: Axes, series: Series, styles: dict[str, Look], scale: float = 1.0) -> None:
    """Lines with intervals, one per arm, moved aside a little so that intervals don't hide each other."""
    for nth, (name, points) in enumerate(series.items()):
        shift = (nth - (len(series) - 1) / 2) * min(0.07, 0.5 / len(series))
        look = styles[name]
        axes.plot([x + shift for x, _ in points], [v.mean * scale for _, v in points], color=look.color, ls=look.line)
        for x, value in points:
            whisker(axes, x + shift, value, look, scale)


def task_ticks(axes: Axes, study: StudyResults, stages: list[int]) -> None:
    """Ticks at the stages, named by the task just learnt if there is one order."""
    streams = set(study.streams.values())
    stream = [drawn_name(task) for task in next(iter(streams))] if len(streams) == 1 else []
    if stream and len(stages) > 3:
        axes.set_xticks(
            stages, [f"{t} {stream[t - 1]}" for t in stages], rotation=30, ha="right", rotation_mode="anchor"
        )
    else:
        axes.set_xticks(stages, [f"{t}\n{stream[t - 1]}" if stream else str(t) for t in stages])
    axes.set_xlim(min(stages) - 0.45, max(stages) + 0.45)
    axes.set_xlabel("after training task")
    axes.grid(False, axis="x")
