"""Average accuracy against what training costs: in tokens, with the Pareto front, and in seconds."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from harness.report.arms import Arm
from harness.report.estimates import certain
from harness.report.figures.accuracy_forgetting import scaled
from harness.report.figures.fronts import Point, draw_front, draw_points, held, pareto_front
from harness.report.figures.palette import Look
from harness.report.figures.parts import Drawing, Rows, drawn_arms, empty, limits
from harness.report.figures.style import COLUMN, GRID, PAGE, TICKS, legend, new_figure, note
from harness.report.metrics import PRIMARY, metric
from harness.report.study import StudyResults

#: The metric of a panel, and what stands at its axis.
PANELS = {"training_tokens": "tokens of training, all through the model", "train_seconds": "seconds of training"}
COLUMNS = ("arm", "cost", "mean", "average_accuracy", "trials", "complete", "on_front")
#: Costs that lie further apart have a logarithmic axis.
FAR = 5.0
#: Costs that are within so much of each other are the same.
ALIKE = 1.01


def accuracy_cost(study: StudyResults, styles: dict[str, Look]) -> Drawing:
    """Arms by their mean accuracy and cost: a panel for all tokens that training sent through the model, one for time.

    What is not trained costs nothing; its accuracy is a line.
    """
    arms = [arm for arm in drawn_arms(study, styles) if arm.estimate(PRIMARY)]
    panels = {cost: {arm.name: point for arm in arms if (point := _point(arm, cost))} for cost in PANELS}
    panels = {cost: points for cost, points in panels.items() if points}
    if not panels:
        return empty("What training costs was not measured."), COLUMNS, []
    fronts: dict[str, list[str]] = {}
    rows: Rows = []
    for cost, points in panels.items():
        # A trial's seconds are its share of its pack's: who trained beside it decides them, too, and no front can.
        shared = metric(cost).shared
        fronts[cost] = [] if shared else pareto_front(_means_of_complete(points))
        for name, point in points.items():
            rows.append(
                {"arm": name, "cost": cost, "mean": point.x.mean, "average_accuracy": point.y.mean / 100,
                 "trials": point.y.n, "complete": point.arm.complete,
                 "on_front": None if shared else name in fronts[cost]}
            )  # fmt: skip
    return [_figure(panels, fronts, arms, styles)], COLUMNS, rows


def _means_of_complete(points: dict[str, Point]) -> dict[str, tuple[float, float]]:
    return {name: (point.x.mean, point.y.mean) for name, point in points.items() if point.arm.complete}


def _point(arm: Arm, cost: str) -> Point | None:
    """Without intervals, which the figure of accuracy and forgetting has, and trials, which share their pack's time."""
    x, y = arm.estimate(cost), arm.estimate(PRIMARY)
    x, y = (value and replace(value, low=None, high=None) for value in (x, y))
    return Point(arm, x, scaled(y), ()) if arm.trains and x and y and x.mean > 0 else None


def _figure(
    panels: dict[str, dict[str, Point]], fronts: dict[str, list[str]], arms: list[Arm], styles: dict[str, Look]
) -> Figure:
    """A panel a cost; one that is the same for all arms is a sentence."""
    same = {cost: points for cost, points in panels.items() if _alike(points)}
    panels = {cost: points for cost, points in panels.items() if cost not in same}
    if not panels:
        return empty(f"Training costs the same in every arm. {' '.join(map(_of_every_arm, same, same.values()))}")[0]
    figure = new_figure(PAGE if len(panels) > 1 else COLUMN, 2.5)
    names = dict.fromkeys(name for points in panels.values() for name in points)
    for axes, (cost, points) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(),
                                    strict=True):  # fmt: skip
        draw_front(axes, [(points[name].x.mean, points[name].y.mean) for name in fronts[cost]])
        draw_points(axes, points, styles)
        _cost_axis(axes, [point.x.mean for point in points.values()])
        axes.set_xlabel(PANELS[cost])
    shown = [point for points in panels.values() for point in points.values()]
    low, high = limits(held(shown, "y"), 4)
    for arm in (arm for arm in arms if not arm.trains):
        value = 100 * certain(arm.estimate(PRIMARY)).mean
        if value > low - 0.5 * (high - low):
            low = min(low, value - 0.05 * (high - low))
            for axes in figure.axes:
                axes.axhline(value, color=styles[arm.name].color, linestyle=(0, (4, 2)), linewidth=1, zorder=1)
            figure.axes[0].annotate(arm.name, (0.01, value), (0, 2), textcoords="offset points",
                                    xycoords=("axes fraction", "data"), fontsize=TICKS)  # fmt: skip
    figure.axes[0].set_ylim(low, high)
    figure.axes[0].set_ylabel("average accuracy (%)")
    for cost, points in same.items():
        note(figure, _of_every_arm(cost, points))
    legend(figure, names, styles, line=False)
    return figure


def _of_every_arm(cost: str, points: dict[str, Point]) -> str:
    number = EngFormatter(places=1, sep="")(next(iter(points.values())).x.mean)
    return f"{PANELS[cost][0].upper()}{PANELS[cost][1:]}: {number} for every arm."


def _alike(points: dict[str, Point]) -> bool:
    costs = [point.x.mean for point in points.values()]
    return max(costs) <= ALIKE * min(costs)


def _cost_axis(axes: Axes, costs: list[float]) -> None:
    axes.grid(True, which="major", color=GRID)
    if max(costs) > FAR * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(min(costs) / 1.3, max(costs) * 1.3)
    else:
        axes.set_xlim(limits([0, *costs], 1e-9))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(EngFormatter(sep="") if max(costs) >= 1000 else ScalarFormatter())
