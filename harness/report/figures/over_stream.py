"""What the figures along the stream share: lines with their trials, and ticks at the stages."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from harness.report.figures.palette import Look
from harness.report.figures.parts import CLEAR, Series, mark


def lines_over_stream(axes: Axes, series: Series, styles: dict[str, Look], scale: float = 1.0) -> None:
    """Lines, one per arm; of few arms with trials or intervals, moved aside a little so that they don't hide others."""
    clear = len(series) <= CLEAR
    for nth, (name, spots) in enumerate(series.items()):
        shift = (nth - (len(series) - 1) / 2) * min(0.08, 0.5 / len(series)) if clear else 0.0
        look = styles[name]
        xs, means = [spot.x + shift for spot in spots], [spot.value.mean * scale for spot in spots]
        axes.plot(xs, means, color=look.color, ls=look.line, marker="" if clear else look.marker)
        for spot in spots if clear else ():
            mark(axes, spot, look, scale, at=spot.x + shift)


def task_ticks(axes: Axes, stages: Sequence[int]) -> None:
    """Ticks at the stages, by number: the page says which task that is in each order."""
    step = max(1, len(stages) // 6)
    axes.set_xticks(stages[::step], [str(t) for t in stages[::step]])
    axes.set_xlim(min(stages) - 0.4, max(stages) + 0.4)
    axes.set_xlabel("after training task")
    axes.grid(False, axis="x")
