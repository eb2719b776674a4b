"""Accuracy matrices as heat maps with numbers, a panel each."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harness.report.figures.style import INK, LINE_HEIGHT, PAPER, Look, drawn_name, new_figure
from harness.report.numbers import number


def heat_maps(arms: list[tuple[str, np.ndarray]], names: list[str], styles: dict[str, Look]) -> Figure:
    """A panel for every (arm, (T+1) x T matrix); ``names`` are the columns'."""
    tasks, names = len(names), [drawn_name(name) for name in names]
    # As many panels a row as fit a page about seven cells of 0.5 inch wide each, and no orphan in the last row.
    across = min(len(arms), max(1, round(18 / max(3, tasks))), 5)
    down = math.ceil(len(arms) / across)
    across = math.ceil(len(arms) / down)
    width = min(11.5, 1.7 + across * max(1.5, 0.44 * tasks))
    labels = 0.075 * max(map(len, names)) + 0.25
    title = LINE_HEIGHT * max(styles[name].label.count("\n") for name, _ in arms)
    figure = new_figure(width, down * (0.27 * (tasks + 1) + 0.45 + title) + labels)
    panels = figure.subplots(down, across, squeeze=False)
    low, high = _scale([matrix for _, matrix in arms])
    for axes, (name, matrix) in zip(panels.flat, arms, strict=False):
        image = _heat_map(axes, matrix * 100, low, high)
        axes.set_title(styles[name].label, color=INK, fontsize=8.5)
        where = axes.get_subplotspec()
        stages = ["base", *(f"after {i}" for i in range(1, tasks + 1))]
        axes.set_yticks(range(tasks + 1), stages if where.is_first_col() else [""] * (tasks + 1))
        bottom = where.rowspan.start == down - 1 or where.colspan.start >= len(arms) - (down - 1) * across
        long = max(map(len, names)) > 6
        axes.set_xticks(
            range(tasks),
            names if bottom else [""] * tasks,
            rotation=40 if long else 0,
            ha="right" if long else "center",
            rotation_mode="anchor" if long else None,
        )
    for axes in list(panels.flat)[len(arms) :]:
        axes.set_visible(False)
    bar = figure.colorbar(image, ax=panels, shrink=0.9, pad=0.015, aspect=22 * down, label="score (%)")
    bar.outline.set_visible(False)
    return figure


def _scale(matrices: list[np.ndarray]) -> tuple[float, float]:
    """Shared colour limits in per cent, on multiples of five, at least ten wide."""
    low = math.floor(min(matrix.min() for matrix in matrices) * 20) * 5
    high = math.ceil(max(matrix.max() for matrix in matrices) * 20) * 5
    return (low, high) if high - low >= 10 else (low - 5, high + 5)


def _heat_map(axes: Axes, percent: np.ndarray, low: float, high: float) -> QuadMesh:
    """One panel: numbers in the cells, a frame round each task's score just after it was learnt."""
    stages, tasks = percent.shape
    edges_x, edges_y = np.arange(tasks + 1) - 0.5, np.arange(stages + 1) - 0.5
    image = axes.pcolormesh(
        edges_x, edges_y, percent, cmap="cividis", vmin=low, vmax=high, edgecolors=PAPER, linewidth=0.8, snap=False
    )
    axes.set_ylim(stages - 0.5, -0.5)
    for (i, j), value in np.ndenumerate(percent):
        light = (value - low) / (high - low) > 0.55
        size = 7.5 if tasks <= 4 else 6.5 if tasks <= 8 else 4.5
        # Not INK or PAPER: the page swaps those in dark mode, the cells stay as they are.
        axes.text(
            j,
            i,
            number(value, 1 if tasks <= 4 else 0),
            ha="center",
            va="center",
            fontsize=size,
            color="#111111" if light else "#FDFDFD",
            in_layout=False,  # it lies within the panel
        )
    for j in range(tasks):
        axes.add_patch(_frame(j, j + 1))
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def _frame(x: float, y: float) -> Rectangle:
    return Rectangle((x - 0.42, y - 0.42), 0.84, 0.84, fill=False, edgecolor="#FDFDFD", linewidth=1, snap=False)
