"""The figures, each as PNG and SVG with the numbers behind it as CSV.

Shares are drawn in per cent and differences in points.  Intervals are 95 % t intervals over trials, orders as strata;
a point without bars has too few trials for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.report.arms import adapter_of
from harness.report.csv_files import write_csv
from harness.report.figures.accuracy_cost import accuracy_cost
from harness.report.figures.accuracy_forgetting import accuracy_forgetting
from harness.report.figures.accuracy_matrix import accuracy_matrix
from harness.report.figures.examples import accuracy_by_examples, varies
from harness.report.figures.files import remove_from, stem_of
from harness.report.figures.forgetting import forgetting
from harness.report.figures.intruders import intruders
from harness.report.figures.intruders_by_epsilon import by_epsilon
from harness.report.figures.intruders_by_place import by_place
from harness.report.figures.intruders_forgetting import against_forgetting
from harness.report.figures.palette import Look, looks
from harness.report.figures.parts import CLEAR, FEW, Drawing
from harness.report.figures.sample_efficiency import BANDS, sample_efficiency
from harness.report.figures.style import context, save
from harness.report.figures.task_scores import task_scores
from harness.report.leaderboard import BoardRow
from harness.report.study import StudyResults
from harness.store.records import TrialRecord


def draw_all(study: StudyResults, board: Sequence[BoardRow], folder: Path) -> list[Path]:
    """Draw every figure into ``folder``; returns the paths written, in a fixed order."""
    styles = drawn_looks(study, board)
    written: list[Path] = []
    packed: list[Future[None]] = []
    with context(), ThreadPoolExecutor(2) as pool:
        for plot in figures_of(study):
            figures, columns, rows = plot.draw(study, styles)
            for page, figure in enumerate(figures, start=1):
                written += save(
                    figure, folder / stem_of(plot.name, page), lambda work: packed.append(pool.submit(work))
                )
            remove_from(folder, plot.name, len(figures) + 1)
            written.append(write_csv(folder / f"{plot.name}.csv", columns, rows))
        for each in packed:
            each.result()  # raises what it raised
    return written


def figures_of(study: StudyResults) -> list[Plot]:
    """The figures of this study's report, in the order of the page."""
    return [plot for plot in FIGURES if plot.asked(study)]


def drawn_looks(study: StudyResults, board: Sequence[BoardRow]) -> dict[str, Look]:
    """Looks of all arms with a finished trial, in the order of the figures: the reference, contestants, controls.

    A scale that the reference is one of comes first as a whole, in the order of its numbers.
    """
    arms = {row.arm.name: row.arm for row in board if row.arm.trials}
    values = {name: _numbers(arm.trials[0].record) for name, arm in arms.items()}
    styles = looks(((arm.name, arm.method) for arm in arms.values()), values)
    partner = study.reference.name if study.reference else ""
    scale = styles[partner].scale if partner in styles else ""

    def place(item: tuple[str, Look]) -> tuple[bool, bool]:
        name, look = item
        return arms[name].control, name != partner and (not scale or look.scale != scale)

    return dict(sorted(styles.items(), key=place))


def _numbers(record: TrialRecord) -> dict[str, float]:
    """The settings that are numbers."""
    known: dict[str, Any] = record.spec.parameters | adapter_of(record)
    return {name: float(value) for name, value in known.items() if type(value) in (int, float)}


Draw = Callable[[StudyResults, dict[str, Look]], Drawing]


@dataclass(frozen=True)
class Plot:
    """A figure of the report.

    ``draw(study, styles)`` returns the figure by its pages, and the columns and rows of the data behind it; it draws
    the arms of ``styles`` (``parts.drawn_arms``), and an empty figure that says why where there is nothing to draw.
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
        "Framed: the task just learnt. With several orders the columns are positions in the stream. Controls stand "
        "below the contestants.",
        accuracy_matrix,
    ),
    Plot(
        "task_scores",
        "Every task over the stream",
        "Score on each task, a row of panels an order, mean over trials. Grey stripe: where the task is trained; "
        "dashed: the base model; dotted: chance.",
        task_scores,
    ),
    Plot(
        "forgetting",
        "Forgetting over the stream",
        f"Best earlier score minus the score now, mean over the tasks learnt before. Dots and thin lines are trials; "
        f"from {FEW} trials up a 95 % CI stands in their place. Dashed grey: the reference.",
        forgetting,
    ),
    Plot(
        "accuracy_forgetting",
        "Accuracy against forgetting",
        f"Means of arms, each with a dot a trial; from {FEW} trials up with an ellipse instead, whose axes are the two "
        "95 % CIs. Hollow: an arm that is not complete. Dashed: the arms whose means no other arm beats on both (the "
        "Pareto front), without the frozen model, which forgets nothing by not learning.",
        accuracy_forgetting,
    ),
    Plot(
        "accuracy_cost",
        "Accuracy against cost",
        "Means of arms against all tokens that training sends through the model, those of teachers and samples "
        "included, and against a trial's share of its pack's time. Dashed, over tokens: the arms whose means no "
        "cheaper arm reaches (the Pareto front). There is no front over seconds: they depend on which trials shared "
        "the pack, on the device and on its load, so they order packs as much as arms. Grey dashes across: what is "
        "not trained.",
        accuracy_cost,
    ),
    Plot(
        "accuracy_by_examples",
        "Accuracy against training examples",
        f"A separate training for each number of examples, joined where nothing else differs, with a dot a trial, from "
        f"{FEW} trials up with the 95 % CI; dashed: what is not trained. Log2 axis; points are moved aside so that "
        "they don't hide each other.",
        accuracy_by_examples,
        varies,
    ),
    Plot(
        "sample_efficiency",
        "Sample efficiency",
        "Score on the task being learnt, mean over tasks, against its examples and against all tokens spent on it "
        "(student, teacher, sampled). Log2 axes; hollow: before the first example. Thin dashes: the student "
        f"of an arm that scores an average of it. Bands, of up to {BANDS} arms with {FEW} trials or more: 95 % CI.",
        sample_efficiency,
    ),
    Plot(
        "intruders",
        "Intruder dimensions",
        "Left singular vectors of the scored weights that resemble none of the original ones (best |cosine| below "
        f"0.5), and how far the top ten are from the nearest original one on average. Of up to {CLEAR} arms with a dot "
        f"a trial, from {FEW} trials up with the 95 % CI.",
        intruders,
    ),
    Plot(
        "intruders_by_epsilon",
        "Intruder dimensions over the threshold",
        f"The count after the last task for other thresholds than 0.5, mean over trials. Of up to {CLEAR} arms with a "
        f"dot a trial, from {FEW} trials up with the 95 % CI.",
        by_epsilon,
    ),
    Plot(
        "intruders_by_place",
        "Intruder dimensions by type of matrix and depth",
        "A row an arm. Counts are sums over the matrices of a type or layer, distances means over them, after the last "
        "task; empty: not adapted.",
        by_place,
    ),
    Plot(
        "intruders_forgetting",
        "Forgetting against intruder dimensions",
        "A point a trained trial. Spearman's rho is over all of them, with its "
        "95 % CI (Bonett and Wright 2000); it is not defined where one side is constant, and mixes arms that differ in "
        "much else. Within arms: points of forgetting for one standard deviation of the measure between trials of one "
        "arm, with the norm of the change and learning accuracy held; 95 % CI by bootstrap over arms.",
        against_forgetting,
    ),
)
