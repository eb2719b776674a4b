"""The figures, each as PNG and SVG with the numbers behind it as CSV.

Shares are drawn in per cent and differences in points.  Intervals are 95 % t intervals over trials, orders as strata;
a point without bars has too few trials for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from harness.report.arms import Arm
from harness.report.csv_files import write_csv
from harness.report.figures.accuracy_forgetting import accuracy_forgetting
from harness.report.figures.accuracy_matrix import accuracy_matrix
from harness.report.figures.examples import accuracy_by_examples, varies
from harness.report.figures.forgetting import forgetting
from harness.report.figures.intruders import intruders
from harness.report.figures.intruders_by_epsilon import by_epsilon
from harness.report.figures.intruders_by_place import by_place
from harness.report.figures.intruders_forgetting import against_forgetting
from harness.report.figures.parts import Rows
from harness.report.figures.sample_efficiency import sample_efficiency
from harness.report.figures.style import FIXED, Look, context, looks, save
from harness.report.leaderboard import BoardRow
from harness.report.study import StudyResults

#: The most arms that are drawn: more lines and panels can't be told apart.
DRAWN = 12


def draw_all(study: StudyResults, board: Sequence[BoardRow], folder: Path) -> list[Path]:
    """Draw every figure into ``folder``; returns the paths written, in a fixed order."""
    styles = drawn_looks(study, board)
    written: list[Path] = []
    with context():
        for plot in figures_of(study):
            figure, columns, rows = plot.draw(study, styles)
            written += save(figure, folder / plot.name)
            written.append(write_csv(folder / f"{plot.name}.csv", columns, rows))
    return written


def figures_of(study: StudyResults) -> list[Plot]:
    """The figures of this study's report, in the order of the page."""
    return [plot for plot in FIGURES if plot.asked(study)]


def drawn_looks(study: StudyResults, board: Sequence[BoardRow]) -> dict[str, Look]:
    """Looks of the arms that figures draw: all of up to ``DRAWN``, else the main ones and the first of the board.

    Main are the references and the best arm of each remedy that has a fixed colour: a reader looks for them, wherever
    they stand on the board.  After them comes the best arm of every other method, then the rest.
    """
    arms = [row.arm for row in board if row.arm.trials]
    best = {arm.method: arm.name for arm in reversed(arms) if arm.trains}

    def place(arm: Arm) -> int:
        first = best.get(arm.method) == arm.name
        return 0 if arm in study.partners or (first and arm.method in FIXED) else 1 if first else 2

    return looks((arm.name, arm.method) for arm in sorted(arms, key=place)[:DRAWN])


Draw = Callable[[StudyResults, dict[str, Look]], tuple[Figure, Sequence[str], Rows]]


@dataclass(frozen=True)
class Plot:
    """A figure of the report.

    ``draw(study, styles)`` returns the figure, and the columns and rows of the data behind it; it draws the arms of
    ``styles`` (``parts.drawn_arms``), and an empty figure that says why where there is nothing to draw.
    """

    name: str  #: of its files
    title: str
    caption: str
    draw: Draw
    asked: Callable[[StudyResults], bool] = lambda study: True  #: whether the study has what the figure is about


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
        "accuracy_by_examples",
        "Accuracy against training examples",
        "A separate training for each number of examples, joined where nothing else differs, with 95 % CI; dashed: the "
        "base model. Log2 axis; points are moved aside so that intervals don't hide each other.",
        accuracy_by_examples,
        varies,
    ),
    Plot(
        "sample_efficiency",
        "Sample efficiency",
        "Score on the task being learnt, mean over tasks, against its examples and against all tokens spent on it "
        "(student, teacher, sampled). Log2 axes; hollow: before the first example. Thin dashes: the student "
        "of an arm that scores an average of it. Bands, of up to six arms: 95 % CI.",
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
        "95 % CI (Bonett and Wright 2000); it is not defined where one side is constant, and mixes arms that differ in "
        "much else. Within arms: points of forgetting for one standard deviation of the measure between trials of one "
        "arm, with the norm of the change and learning accuracy held; 95 % CI by bootstrap over arms.",
        against_forgetting,
    ),
)
