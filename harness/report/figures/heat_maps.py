"""Accuracy matrices as heat maps with numbers, a panel each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harness.report.estimates import certain
from harness.report.figures.palette import Look, shown_name
from harness.report.figures.parts import filled
from harness.report.figures.style import HIGH, INK, LINE_HEIGHT, PAGE, TICKS, new_figure, one_line
from harness.report.numbers import number

#: An arm and its (T+1) x T matrix.
Named = tuple[str, np.ndarray]
#: Inches of a row of cells, and of what stands beside the panels: the names of stages, and the bar of colours.
ROW, BESIDE = 0.165, 1.05
#: Inches of a letter of a name, and of one that stands below a column without being turned.
LETTER, LEVEL = 0.0585, 0.05
#: Tasks whose panel still is no wider than a page, and points of the numbers up to there: three digits fill a cell.
FITTING, NUMBERS = 27, 6.0


def heat_maps(blocks: Sequence[Sequence[Named]], names: list[str], styles: dict[str, Look]) -> list[Figure]:
    """A panel for every (arm, (T+1) x T matrix), every block in rows of its own; ``names`` are the columns'.

    Pages are as high as a paper's at most; all share one scale of colours.
    """
    tasks, names = len(names), [one_line(name) for name in names]
    most = max(map(len, blocks))
    across = max(1, min(most, int((PAGE - BESIDE) / _wide(tasks)), 6))
    across = math.ceil(most / math.ceil(most / across))  # no orphan in the last row
    lines = [list(block[i : i + across]) for block in blocks for i in range(0, len(block), across)]
    title = LINE_HEIGHT * max(1 + _title(name, tasks, styles).count("\n") for block in blocks for name, _ in block)
    high = ROW * (tasks + 1) + 0.1 + title
    longest = max(map(len, names))
    below = 0.1 + (LETTER * longest if _turned(names) else 0.1)
    count = max(1, int((HIGH - below) / high))
    scale = _scale([matrix for block in blocks for _, matrix in block])
    cuts = np.array_split(np.arange(len(lines)), math.ceil(len(lines) / count))
    return [_page([lines[i] for i in cut], names, styles, scale, (across, high, below)) for cut in cuts]


def _page(
    lines: Sequence[Sequence[Named]],
    names: list[str],
    styles: dict[str, Look],
    scale: tuple[float, float],
    sizes: tuple[int, float, float],
) -> Figure:
    """Rows of panels; the names of tasks stand below the lowest of each column."""
    across, high, under = sizes
    down, tasks, (low, top) = len(lines), len(names), scale
    width = min(PAGE, max(2.6, BESIDE + across * _wide(tasks)))
    figure = new_figure(width, down * high + under)
    panels = figure.subplots(down, across, squeeze=False)
    stages = ["base", *(f"after {i}" for i in range(1, tasks + 1))]
    image = None
    for row, column, axes, (name, matrix) in filled(panels, lines):
        image = _heat_map(axes, matrix * 100, low, top)
        axes.set_title(_title(name, tasks, styles), color=INK, fontsize=TICKS)
        axes.set_yticks(range(tasks + 1), stages if column == 0 else [""] * (tasks + 1))
        lowest = all(column >= len(below) for below in lines[row + 1 :])
        _name_columns(axes, names if lowest else [""] * tasks, hanging=row < down - 1)
    bar = figure.colorbar(certain(image), ax=panels, shrink=min(1.0, 1.6 / (down * high)), aspect=14, pad=0.015,
                          label="score (%)", anchor=(0, 1))  # fmt: skip
    bar.outline.set_visible(False)
    return figure


def _title(name: str, tasks: int, styles: dict[str, Look]) -> str:
    """The name as it fits a panel; what has no name has the label of its look."""
    return shown_name(name, int(_wide(tasks) / LETTER)) or styles[name].label


def _wide(tasks: int) -> float:
    """Inches of a panel with its gap: few tasks have room for a decimal."""
    return max(0.9, (0.31 if tasks <= 4 else 0.213) * tasks) + 0.09


def _turned(names: Sequence[str]) -> bool:
    """Whether some name is wider than a column."""
    return LEVEL * max(map(len, names)) > _wide(len(names)) / len(names)


def _name_columns(axes: Axes, names: Sequence[str], *, hanging: bool) -> None:
    """Names straight below their columns; ``hanging``: into the room of the panels that are not there."""
    axes.set_xticks(range(len(names)), names, rotation=90 if _turned(names) else 0)
    for label in axes.get_xticklabels():
        label.set_in_layout(not hanging)


def _scale(matrices: list[np.ndarray]) -> tuple[float, float]:
    """Shared colour limits in per cent, on multiples of five, at least ten wide."""
    low = math.floor(min(matrix.min() for matrix in matrices) * 20) * 5
    high = math.ceil(max(matrix.max() for matrix in matrices) * 20) * 5
    return (low, high) if high - low >= 10 else (low - 5, high + 5)


def _heat_map(axes: Axes, percent: np.ndarray, low: float, high: float) -> QuadMesh:
    """One panel: numbers in the cells, a frame round each task's score just after it was learnt."""
    tasks = percent.shape[1]
    image = shaded(axes, percent, Normalize(low, high))
    for (i, j), value in np.ndenumerate(percent):
        text, size = number(value, 1 if tasks <= 4 else 0), NUMBERS * min(1.0, FITTING / tasks)
        write_in(axes, (i, j), text, (value - low) / (high - low), size)
    for j in range(tasks):
        axes.add_patch(_frame(j, j + 1))
    return image


def shaded(axes: Axes, values: np.ndarray, norm: Normalize) -> QuadMesh:
    """Cells in colours, the first row on top."""
    stages, tasks = values.shape
    edges_x, edges_y = np.arange(tasks + 1) - 0.5, np.arange(stages + 1) - 0.5
    image = axes.pcolormesh(
        edges_x, edges_y, values, cmap="cividis", norm=norm, edgecolors="#FDFDFD", linewidth=0.5, snap=False
    )
    axes.set_ylim(stages - 0.5, -0.5)
    axes.grid(False)
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)
    return image


def write_in(axes: Axes, place: tuple[int, int], text: str, share: float, size: float) -> None:
    """A number in a cell whose colour lies at this share of the scale."""
    # Not INK or PAPER: the page swaps those in dark mode, the cells stay as they are.
    axes.text(
        place[1],
        place[0],
        text,
        ha="center",
        va="center",
        fontsize=size,
        color="#111111" if share > 0.55 else "#FDFDFD",
        in_layout=False,  # it lies within the panel
    )


def _frame(x: float, y: float) -> Rectangle:
    return Rectangle((x - 0.43, y - 0.41), 0.86, 0.82, fill=False, edgecolor="#FDFDFD", linewidth=0.8, snap=False)
