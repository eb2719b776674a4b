"""The score on every task over the stream, a panel a task, with the base model and chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.statistics import SHARE
from harness.report.arms import Arm
from harness.report.figures.palette import Look
from harness.report.figures.parts import Drawing, Rows, Series, Spot, drawn_arms, empty, filled, pages_of, point_row
from harness.report.figures.style import INK, PAGE, TICKS, legend, new_figure, one_line
from harness.report.study import StudyResults

COLUMNS = ("order", "task", "position", "arm", "x", "mean", "ci_low", "ci_high", "trials", "chance", "base")
#: The most arms on a page, the most panels side by side, and inches of a panel.
ARMS, ACROSS, PANEL = 8, 6, 1.12
#: Inches of a letter above a panel, on average.
SMALL_LETTER = 0.055
#: A panel: an order and the place of a task in it, from 0.
Place = tuple[str, int]


def task_scores(study: StudyResults, styles: dict[str, Look]) -> Drawing:
    """Mean score on each task of an order, of the base model (0) and after each training task.

    Arms in pages, the reference on each of them.  Tasks whose metric is better the lower are left out.
    """
    arms = [arm for arm in drawn_arms(study, styles) if arm.trains] or drawn_arms(study, styles)
    series: dict[Place, Series] = {}
    marks: dict[Place, tuple[float | None, float]] = {}
    rows: Rows = []
    for order, stream in study.streams.items():
        for column, task in enumerate(stream):
            for arm in arms:
                spots = _line(arm, order, task)
                if not spots:
                    continue
                place = order, column
                series.setdefault(place, {})[arm.name] = spots
                marks.setdefault(place, (_chance(arm, task), spots[0].value.mean))
                chance, base = marks[place]
                rows += [
                    point_row(arm, int(spot.x), spot.value, order=order, task=task, position=column + 1, chance=chance,
                              base=base)
                    for spot in spots
                ]  # fmt: skip
    if not series:
        return empty("No task of the stream has a metric where higher is better."), COLUMNS, rows
    names = [arm.name for arm in arms if any(arm.name in lines for lines in series.values())]
    always = [study.reference.name] if study.reference else []
    pages = pages_of(names, ARMS, always)
    return [_page(page, series, marks, study, styles) for page in pages], COLUMNS, rows


def _line(arm: Arm, order: str, task: str) -> list[Spot]:
    """Scores at every stage that all trials of the order have; empty for a task that is better the lower."""
    trials = [trial for trial in arm.trials if trial.record.spec.order == order]
    scores = {trial.key: found for trial in trials if (found := trial.record.tasks.get(task))}
    if not trials or len(scores) < len(trials) or not all(each.higher_is_better for each in scores.values()):
        return []
    spots = []
    for stage in range(min(len(each.score) for each in scores.values())):
        values = {key: each.score[stage] for key, each in scores.items()}
        known = {key: value for key, value in values.items() if value is not None}
        if len(known) == len(values):
            spots.append(Spot.of(stage, known, SHARE))
    return spots


def _chance(arm: Arm, task: str) -> float | None:
    return next(trial.record.tasks[task].chance for trial in arm.trials if task in trial.record.tasks)


def _page(
    names: Sequence[str],
    series: dict[Place, Series],
    marks: dict[Place, tuple[float | None, float]],
    study: StudyResults,
    styles: dict[str, Look],
) -> Figure:
    """Every order begins a row of panels."""
    lines: list[list[Place]] = []
    for order in study.streams:
        own = [place for place in series if place[0] == order]
        wide = math.ceil(len(own) / max(1, math.ceil(len(own) / ACROSS)))
        lines += [own[i : i + wide] for i in range(0, len(own), max(1, wide))]
    across = max(map(len, lines))
    figure = new_figure(PAGE if across > 2 else 3.3, PANEL * len(lines) + 0.5)
    panels = figure.subplots(len(lines), across, squeeze=False, sharey=True)
    for _, column, axes, (order, at) in filled(panels, lines):
        first = (f"{order}: " if column == 0 and len(study.streams) > 1 else "") + f"{at + 1} "
        room = int((figure.get_figwidth() - 0.6) / across / SMALL_LETTER) - len(first)
        axes.set_title(first + one_line(study.streams[order][at], max(6, room)), fontsize=TICKS)
        _panel(axes, series[order, at], names, marks[order, at], styles)
        axes.axvspan(at + 0.5, at + 1, color=INK, alpha=0.09, linewidth=0, zorder=0)
        stages = len(study.streams[order])
        axes.set_xticks(range(0, stages + 1, max(1, (stages + 1) // 6)))
        axes.set_xlim(-0.25, stages + 0.25)
    figure.supylabel("score (%)", fontsize="medium")
    figure.supxlabel("after training task (0: the base model)", fontsize="medium")
    legend(figure, names, styles)
    return figure


def _panel(
    axes: Axes, lines: Series, names: Sequence[str], marks: tuple[float | None, float], styles: dict[str, Look]
) -> None:
    chance, base = marks
    axes.axhline(100 * base, color=INK, linewidth=0.7, linestyle=(0, (4, 2)), alpha=0.7)
    if chance is not None:
        axes.axhline(100 * chance, color=INK, linewidth=0.8, linestyle=(0, (1, 1.5)), alpha=0.7)
    for name in names:
        look, spots = styles[name], lines.get(name, ())
        axes.plot([s.x for s in spots], [100 * s.value.mean for s in spots], color=look.color, linestyle=look.line,
                  marker=look.marker, markersize=2.8, linewidth=1.0)  # fmt: skip
