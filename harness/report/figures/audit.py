"""The figures of an audit: change of every score against the base, intruders by projection, a sequence's matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.report.csv_files import write_csv
from harness.report.figures.heat_maps import heat_maps
from harness.report.figures.palette import Look, looks_in_order
from harness.report.figures.parts import Rows, empty
from harness.report.figures.style import INK, PAGE, PAPER, context, drawn_name, legend, new_figure, save
from harness.store.audit import AuditedAdapter, AuditRecord, AuditTask

CHANGE = ("adapter", "task", "probe", "metric", "items", "difference", "stderr", "p", "clear")
INTRUDERS = ("adapter", "projection", "matrices", "count", "distance")
MATRIX = ("after_task", "adapter", "task", "score")
#: Inches between the rows of a figure, of one adapter in a row, and beside the panels.
ROW, LANE, FRAME = 0.16, 0.14, 0.55


def draw_audit(record: AuditRecord, folder: Path) -> list[Path]:
    """Draw the figures that this audit has into ``folder``; returns the paths written, in a fixed order."""
    styles = looks_in_order(adapter.name for adapter in record.adapters)
    written: list[Path] = []
    for name in set(FIGURES) - set(figures_of(record)):  # of an earlier audit in this folder
        for old in folder.glob(f"{name}.*"):
            old.unlink()
    with context():
        for name in figures_of(record):
            figure, columns, rows = FIGURES[name](record, styles)
            written += save(figure, folder / name)
            written.append(write_csv(folder / f"{name}.csv", columns, rows))
    return written


def figures_of(record: AuditRecord) -> list[str]:
    """Names of this audit's figures: a matrix only where the adapters are one training run."""
    return [name for name in FIGURES if name != "accuracy_matrix" or record.continual]


def score_change(record: AuditRecord, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Adapter minus base on every task and probe, with two standard errors; shares and other metrics apart."""
    scored = [adapter for adapter in record.adapters if adapter.status == "ok"]
    rows: Rows = [
        {"adapter": adapter.name, "task": task.name, "probe": task.probe, "metric": task.metric, "items": task.items,
         **adapter.changes[task.name].model_dump(exclude={"loss"})}
        for task in record.tasks for adapter in scored
    ]  # fmt: skip
    if not scored:
        return empty("No adapter could be scored.")[0], CHANGE, rows
    panels = _panels(record.tasks)
    lane = ROW + LANE * len(scored)
    figure = new_figure(PAGE, sum(lane * len(group) + FRAME for group in panels) + 0.35)
    heights = [lane * len(group) + FRAME for group in panels]
    for axes, tasks in zip(figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights).flat, panels,
                           strict=True):  # fmt: skip
        _changes(axes, tasks, scored, styles)
    legend(figure, [adapter.name for adapter in scored], styles)
    return figure, CHANGE, rows


def _panels(tasks: Sequence[AuditTask]) -> list[list[AuditTask]]:
    """Tasks that may share an axis: all shares, then those of each other metric, which has a unit of its own."""
    units = {task.name: "" if task.higher_is_better else task.metric for task in tasks}
    return [[task for task in tasks if units[task.name] == unit] for unit in sorted(set(units.values()))]


def _changes(
    axes: Axes, tasks: Sequence[AuditTask], adapters: Sequence[AuditedAdapter], styles: dict[str, Look]
) -> None:
    """Tasks from top to bottom, in each the adapters; hollow where the difference is not clear."""
    shares = tasks[0].higher_is_better
    for row, task in enumerate(tasks):
        for place, adapter in zip(_lanes(len(adapters)), adapters, strict=True):
            change, look = adapter.changes[task.name], styles[adapter.name]
            scale = 100.0 if shares else 1.0
            axes.errorbar(
                change.difference * scale,
                row + place,
                xerr=None if change.stderr is None else 2 * change.stderr * scale,
                color=look.color,
                marker=look.marker,
                markersize=4.5,
                capsize=2,
                elinewidth=1.2,
                markerfacecolor=PAPER if change.clear is False else look.color,
            )
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    _rows(axes, [f"{task.name} (probe)" if task.probe else task.name for task in tasks])
    low, high = axes.get_xlim()
    least = 2.0 if shares else 0.02  # points, or units of the metric: no change must not look like one
    axes.set_xlim(min(low, -least), max(high, least))
    unit = tasks[0].metric.replace("_", " ")
    axes.set_xlabel("score minus the base's (points)" if shares else f"{unit} minus the base's (lower is better)")


def intruders(record: AuditRecord, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Count of intruder dimensions and their mean distance by type of projection."""
    rows: Rows = [
        {"adapter": adapter.name, "projection": name,
         "matrices": part.matrices, "count": part.count, "distance": part.distance}
        for adapter in record.adapters for name, part in adapter.intruders.by_type.items()
    ]  # fmt: skip
    names = list(dict.fromkeys(name for adapter in record.adapters for name in adapter.intruders.by_type.names))
    figure = new_figure(PAGE, (ROW + LANE * len(record.adapters)) * len(names) + FRAME + 0.35)
    labels = {"count": "intruder dimensions (sum)", "distance": "intruder distance (1 − best |cos|)"}
    for nth, (axes, (metric, label)) in enumerate(zip(figure.subplots(1, 2), labels.items(), strict=True)):
        top = 1.0 if metric == "count" else 1e-4
        for place, adapter in zip(_lanes(len(record.adapters)), record.adapters, strict=True):
            look = styles[adapter.name]
            for row, name in enumerate(names):
                if part := adapter.intruders.by_type.get(name):
                    value = getattr(part, metric)
                    top = max(top, value)
                    axes.plot([0, value], [row + place] * 2, color=look.color, linewidth=1, alpha=0.5)
                    axes.plot(value, row + place, color=look.color, marker=look.marker, markersize=4.5, clip_on=False)
        _rows(axes, names if nth == 0 else [""] * len(names))
        axes.set_xlim(0, 1.07 * top)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=metric == "count"))
        axes.set_xlabel(label)
    legend(figure, [adapter.name for adapter in record.adapters], styles)
    return figure, INTRUDERS, rows


def _lanes(count: int) -> np.ndarray:
    """Where the adapters lie in a row that is one unit high."""
    share = LANE * count / (ROW + LANE * count)
    return (np.arange(count) - (count - 1) / 2) / count * share


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Named rows from top to bottom, with a line between two."""
    axes.set_yticks(range(len(names)), [drawn_name(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color=INK, linewidth=0.4, alpha=0.25)


def accuracy_matrix(record: AuditRecord, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Score on every task of the base and after each training task."""
    matrix, stream = np.array(record.matrix()), [task.name for task in record.stream]
    stages = ["", *(adapter.name for adapter in record.adapters)]
    rows: Rows = [
        {"after_task": i, "adapter": stages[i], "task": stream[j], "score": value}
        for (i, j), value in np.ndenumerate(matrix)
    ]
    title = Look("score after each task", INK, "o", "-")
    return heat_maps([[("", matrix)]], stream, {"": title})[0], MATRIX, rows


Draw = Callable[[AuditRecord, dict[str, Look]], tuple[Figure, Sequence[str], Rows]]
FIGURES: dict[str, Draw] = {"score_change": score_change, "intruders": intruders, "accuracy_matrix": accuracy_matrix}
