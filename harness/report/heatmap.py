"""The accuracy matrix of every arm as a heat map with numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harness.report.drawing import Rows, drawn_arms, empty
from harness.report.frame import Arm
from harness.report.study import Study
from harness.report.style import INK, LINE_HEIGHT, PAPER, Look, drawn_name, new_figure


def mean_matrix(arm: Arm, order: str | None = None) -> np.ndarray | None:
    """Mean (T+1) x T matrix of the arm's trials, orders with the same weight; None without a comparable shape."""
    by_order: dict[str, list[np.ndarray]] = {}
    for trial in arm.trials:
        if trial.matrix is not None and order in (None, trial.record.spec.order):
            by_order.setdefault(trial.record.spec.order, []).append(trial.matrix)
    means = [np.mean(group, axis=0) for group in by_order.values()]
    return np.mean(means, axis=0) if means and len({mean.shape for mean in means}) == 1 else None


def accuracy_matrix(study: Study, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """A heat map an arm; with several orders the columns are positions in the stream, and the CSV has every order."""
    columns = ("arm", "order", "after_task", "position", "task", "mean", "trials")
    streams, rows = study.streams, []
    arms = [(arm, matrix) for arm in drawn_arms(study, styles) if (matrix := mean_matrix(arm)) is not None]
    for arm, _ in arms:
        for order, stream in streams.items():
            matrix = mean_matrix(arm, order)
            count = sum(trial.record.spec.order == order for trial in arm.trials)
            for (stage, column), value in np.ndenumerate(matrix) if matrix is not None else ():
                rows.append(
                    {
                        "arm": arm.name,
                        "order": order,
                        "after_task": stage,
                        "position": column + 1,
                        "task": stream[column],
                        "mean": value,
                        "trials": count,
                    }
                )
    if not arms:
        return empty("No accuracy matrix: the tasks' metrics are not higher-is-better."), columns, rows
    tasks = arms[0][1].shape[1]
    single = len(set(streams.values())) == 1
    names = list(next(iter(streams.values()))) if single else [f"task {i + 1}" for i in range(tasks)]
    return heat_maps([(arm.name, matrix) for arm, matrix in arms], names, styles), columns, rows


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
            f"{value:.{1 if tasks <= 4 else 0}f}",
            ha="center",
            va="center",
            fontsize=size,
            color="#111111" if light else "#FDFDFD",
        )
    for j in range(tasks):
        axes.add_patch(_frame(j, j + 1))
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def _frame(x: float, y: float) -> Rectangle:
    return Rectangle((x - 0.42, y - 0.42), 0.84, 0.84, fill=False, edgecolor="#FDFDFD", linewidth=1, snap=False)
