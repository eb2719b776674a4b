"""The figures, each as PNG and SVG with the numbers behind it as CSV.

Shares are drawn in per cent and differences in points.  Intervals are 95 % t intervals over trials, orders as strata;
where n allows none, there is a point without bars.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.statistics import Estimate
from harness.report.drawing import Rows, bars, drawn_arms, empty, limits, other_arms, spans
from harness.report.frame import Arm, write_csv
from harness.report.heatmap import accuracy_matrix
from harness.report.intruder_plots import against_forgetting, by_epsilon, by_place
from harness.report.leaderboard import Row
from harness.report.study import Study
from harness.report.style import FIXED, GRID, INK, PAPER, Look, context, drawn_name, legend, looks, new_figure, save
from harness.report.trends import forgetting, intruders, sample_efficiency

#: At most so many arms are drawn: more lines and panels can't be told apart.
DRAWN = 12


def draw_all(study: Study, board: Sequence[Row], folder: Path) -> list[Path]:
    """Draw every figure into ``folder``; returns the paths written, in a fixed order."""
    styles = drawn_looks(study, board)
    written: list[Path] = []
    with context():
        for plot in FIGURES:
            figure, columns, rows = plot.draw(study, styles)
            written += save(figure, folder / plot.name)
            written.append(write_csv(folder / f"{plot.name}.csv", columns, rows))
    return written


def drawn_looks(study: Study, board: Sequence[Row]) -> dict[str, Look]:
    """Looks of the arms that figures draw: all of up to ``DRAWN``, else the main ones and the first of the board.

    Main are plain LoRA and the best arm of each of the remedies that have a colour of their own: they are what a
    reader looks for, wherever they come out.  After them comes the best arm of every other method, then the rest.
    """
    arms = [row.arm for row in board if row.arm.trials]
    best = {arm.method: arm.name for arm in reversed(arms) if arm.method != "frozen"}

    def place(arm: Arm) -> int:
        first = best.get(arm.method) == arm.name
        return 0 if arm is study.reference or (first and arm.method in FIXED) else 1 if first else 2

    return looks((arm.name, arm.method) for arm in sorted(arms, key=place)[:DRAWN])


def accuracy_forgetting(study: Study, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Average accuracy against forgetting: an arm is a point with both intervals, a trial a faint dot.

    Arms without a look are grey points, so that the front is that of all arms.
    """
    columns = (
        "arm",
        "order",
        "seed",
        "forgetting",
        "forgetting_ci_low",
        "forgetting_ci_high",
        "average_accuracy",
        "average_accuracy_ci_low",
        "average_accuracy_ci_high",
        "trials",
        "complete",
        "on_front",
    )
    points = {}
    for arm in (*drawn_arms(study, styles), *other_arms(study, styles)):
        across, up = arm.estimate("forgetting"), arm.estimate("average_accuracy")
        if across and up:
            points[arm.name] = (arm, across, up)
    if not points:
        return empty("Accuracy against forgetting needs two tasks."), columns, []
    front = pareto_front({n: (x.mean, y.mean) for n, (arm, x, y) in points.items() if arm.complete and n != "frozen"})
    rows: Rows = []
    for name, (arm, x, y) in points.items():
        rows.append(
            {
                "arm": name,
                "forgetting": x.mean,
                "forgetting_ci_low": x.low,
                "forgetting_ci_high": x.high,
                "average_accuracy": y.mean,
                "average_accuracy_ci_low": y.low,
                "average_accuracy_ci_high": y.high,
                "trials": x.n,
                "complete": arm.complete,
                "on_front": name in front,
            }
        )
        for (order, seed), value in sorted(arm.values("forgetting").items()) if name in styles else ():
            rows.append(
                {
                    "arm": name,
                    "order": order,
                    "seed": seed,
                    "forgetting": value,
                    "average_accuracy": arm.values("average_accuracy")[order, seed],
                }
            )
    return _scatter(points, front, styles), columns, rows


def _scatter(points: dict[str, tuple[Arm, Estimate, Estimate]], front: list[str], styles: dict[str, Look]) -> Figure:
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    line = [(points[name][1].mean * 100, points[name][2].mean * 100) for name in front]
    if len(line) > 1:
        axes.plot(*zip(*line, strict=True), color=INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.6, zorder=1)
    held: tuple[list[float], list[float]] = ([], [])
    control = points.get("frozen") if len(points) > 1 and "frozen" in styles else None
    others = [(x.mean * 100, y.mean * 100) for name, (_, x, y) in points.items() if name not in styles]
    if others:
        axes.plot(*zip(*others, strict=True), ".", color=GRID, markersize=5, zorder=1)
        for name in (name for name in front if name not in styles):
            at = points[name][1].mean * 100, points[name][2].mean * 100
            axes.annotate(drawn_name(name), at, (4, -3), textcoords="offset points", fontsize=7, alpha=0.8)
        for side, own in zip(held, zip(*others, strict=True), strict=True):
            side += own
    for name, (arm, x, y) in points.items():
        if name not in styles:
            continue
        look = styles[name]
        if control and name == "frozen":
            continue
        dots = [[v * 100 for _, v in sorted(arm.values(m).items())] for m in ("forgetting", "average_accuracy")]
        axes.plot(*dots, ".", color=look.color, alpha=0.3, markersize=5, markeredgewidth=0, zorder=2)
        axes.errorbar(
            x.mean * 100,
            y.mean * 100,
            xerr=bars(x, 100),
            yerr=bars(y, 100),
            color=look.color,
            marker=look.marker,
            markersize=7,
            capsize=2.5,
            elinewidth=1.2,
            zorder=4,
            markeredgewidth=1,
            markerfacecolor=look.color if arm.complete else PAPER,
        )
        for side, value, own in zip(held, (x, y), dots, strict=True):
            side += spans([value], 100) + own
    axes.set_xlim(limits([*held[0], 0], 2))
    axes.set_ylim(limits(held[1], 4))
    if control:
        _control(axes, control, styles["frozen"])
    axes.axvline(0, color=GRID, linewidth=0.9, zorder=0)
    axes.set_xlabel("forgetting (points, lower is better)")
    axes.set_ylabel("average accuracy (%, higher is better)")
    legend(figure, points, styles)
    return figure


def _control(axes: Axes, point: tuple[Arm, Estimate, Estimate], look: Look) -> None:
    """The frozen model: in its place, or at the lower edge with its number where it would squeeze all others."""
    x, y = point[1].mean * 100, point[2].mean * 100
    low, high = axes.get_ylim()
    inside = y > low - 0.35 * (high - low)
    if inside:
        axes.set_ylim(min(low, y - 0.07 * (high - low)), max(high, y + 0.07 * (high - low)))
    # The lower edge stands for "below the axis".
    at = y if inside else low
    axes.plot([x], [at], marker=look.marker, color=look.color, markersize=7, linestyle="none", clip_on=False, zorder=5)
    if not inside:
        axes.annotate(
            f"{look.label}: {y:.1f} %, below the axis",
            (x, at),
            xytext=(7, 6),
            textcoords="offset points",
            color=INK,
            fontsize=7.5,
        )


def pareto_front(points: dict[str, tuple[float, float]]) -> list[str]:
    """Names that no other point beats (less forgetting and at least the accuracy, or the reverse), by forgetting."""
    front = [
        name for name, (x, y) in points.items()
        if not any(a <= x and b >= y and (a < x or b > y) for a, b in points.values())
    ]  # fmt: skip
    return sorted(front, key=lambda name: (points[name], name))


Draw = Callable[[Study, dict[str, Look]], tuple[Figure, Sequence[str], Rows]]


@dataclass(frozen=True)
class Plot:
    """A figure of the report.

    ``draw(study, styles)`` returns the figure, and the columns and rows of the data behind it; it draws the arms of
    ``styles`` (``drawing.drawn_arms``), and an empty figure that says why where there is nothing to draw.
    """

    name: str  #: of its files
    title: str
    caption: str
    draw: Draw


#: Every figure, in the order of the page.  To add one, add it here.
FIGURES: tuple[Plot, ...] = (
    Plot(
        "accuracy_matrix",
        "Accuracy matrix",
        "Score on each task (columns) of the base model and after each training task (rows), mean over trials. "
        "Framed: the task just learnt. With several orders the columns are positions in the stream.",
        accuracy_matrix,
    ),
    Plot(
        "forgetting",
        "Forgetting over the stream",
        "Best earlier score minus the score now, mean over the tasks learnt before. 95 % CI; points are moved aside "
        "so that intervals don't hide each other.",
        forgetting,
    ),
    Plot(
        "accuracy_forgetting",
        "Accuracy against forgetting",
        "Arms with 95 % CI both ways, trials as faint dots, incomplete arms hollow. Dashed: the arms whose means no "
        "other arm beats on both (the Pareto front), without the frozen model, which forgets nothing by not learning.",
        accuracy_forgetting,
    ),
    Plot(
        "sample_efficiency",
        "Sample efficiency",
        "Score on the task being learnt, mean over tasks, against its examples and against all tokens spent on it "
        "(student, teacher, sampled). Log2 axes; hollow: before the first example. Bands, of up to six arms: 95 % CI.",
        sample_efficiency,
    ),
    Plot(
        "intruders",
        "Intruder dimensions",
        "Left singular vectors of the scored weights that resemble none of the original ones (best |cosine| below "
        "0.5), and how far the top ten are from the nearest original one on average. 95 % CI; grey: counts of other "
        "arms, where they have any.",
        intruders,
    ),
    Plot(
        "intruders_by_epsilon",
        "Intruder dimensions over the threshold",
        "The count after the last task for other thresholds than 0.5, mean over trials, 95 % CI; grey: other arms that "
        "have any at 0.5.",
        by_epsilon,
    ),
    Plot(
        "intruders_by_place",
        "Intruder dimensions by type of matrix and depth",
        "Counts are sums over the matrices of a type or layer, distances means over them, after the last task.",
        by_place,
    ),
    Plot(
        "intruders_forgetting",
        "Forgetting against intruder dimensions",
        "A point a trained trial, grey those of arms that are not drawn. Spearman's rho is over all of them, with its "
        "95 % CI (Bonett and Wright 2000); it is not defined where one side is constant.",
        against_forgetting,
    ),
)
