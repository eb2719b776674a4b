"""The tables below the figures, as text, for page, Markdown and LaTeX: one row per arm, in the board's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.analysis.statistics import FROM_ZERO, SHARE, SHARES_APART, Estimate, inside
from harness.report import metrics
from harness.report.arms import Arm
from harness.report.estimates import estimate
from harness.report.leaderboard import BoardRow
from harness.report.metric import Metric
from harness.report.metrics import PRIMARY
from harness.report.numbers import NOTHING, interval, joined, listed, number, percent, points, with_error
from harness.report.study import StudyResults, called
from harness.report.text import published
from harness.report.text.claims import claims_tables
from harness.report.text.table import Table
from harness.store.records import TaskScores


def tables(study: StudyResults, board: Sequence[BoardRow]) -> list[Table]:
    """Every table but the board itself; those with nothing to show are left out."""
    yardstick = called(study.reference.name) if study.reference else "the reference"
    return [
        *claims_tables(study),
        *_published(study, board),
        _per_task(study, board),
        *_per_order(study, board),
        *_probes(study, board),
        _metric_table(
            "More metrics",
            board,
            metrics.in_table("more"),
            f"90 %: base model plus 0.9 of {yardstick}'s mean best gain on the task; tasks that don't get there within "
            f"what {yardstick} spends on them count with that. Interquartile mean: of all final scores of all trials, "
            "from 3 tasks and 5 seeds up.",
        ),
        _metric_table(
            "Costs of a trial", board, metrics.in_table("costs"), "Means over finished trials; –: nothing was measured."
        ),
    ]


def _trained(board: Sequence[BoardRow]) -> list[Arm]:
    return [row.arm for row in board if row.arm.trials]


def _metric_table(heading: str, board: Sequence[BoardRow], listed: Sequence[Metric], caption: str) -> Table:
    """Means over trials; metrics that no arm has are left out."""
    arms = _trained(board)
    means = {metric.name: [arm.mean(metric) for arm in arms] for metric in listed}
    shown = [metric for metric in listed if any(value is not None for value in means[metric.name])]
    table = Table(heading, ["Method", *(metric.heading for metric in shown)], caption=caption)
    for i, arm in enumerate(arms):
        table.rows.append([arm.name, *(metric.text(means[metric.name][i]) for metric in shown)])
    return table


def _scores(arm: Arm, task: str, stage: int, group: str = "tasks", of: str = "score") -> Estimate | None:
    """Mean score of a task or probe at a stage (0 base, -1 end) over those of the arm's trials that have the task.

    With ``of="stderr"``: the mean of their standard errors over the test items.
    """
    scores = {trial.key: getattr(trial.record, group).get(task) for trial in arm.trials}
    values = {key: getattr(task_scores, of)[stage] for key, task_scores in scores.items() if task_scores is not None}
    if not values or None in values.values():
        return None
    shares = all(each.higher_is_better for each in scores.values() if each is not None)
    return estimate(values, SHARE if shares and of == "score" else FROM_ZERO)


def _scored(arm: Arm, task: str, stage: int, scale: Any, group: str = "tasks") -> str:
    """Mean score ± its standard error over the test items."""
    value, error = _scores(arm, task, stage, group), _scores(arm, task, stage, group, "stderr")
    return with_error(scale(value.mean), error.mean if error else None, scale) if value else NOTHING


def _final(arm: Arm, task: str, scale: Any) -> str:
    """Mean score at the end with its interval over trials; where there is none, ± the standard error over the items."""
    value = _scores(arm, task, -1)
    ends = interval(value, scale) if value else ""
    return joined(scale(value.mean), ends) if value and ends else _scored(arm, task, -1, scale)


def _base(arms: Sequence[Arm], tasks: Sequence[str], scales: Sequence[Any], group: str = "tasks") -> list[str]:
    """The base model's scores, each from the first arm that has it."""
    return [
        next((text for arm in arms if (text := _scored(arm, task, 0, scale, group)) != NOTHING), NOTHING)
        for task, scale in zip(tasks, scales, strict=True)
    ]


def _per_task(study: StudyResults, board: Sequence[BoardRow]) -> Table:
    """Final score of every arm on every task."""
    arms = _trained(board)
    seen = [next(t.record.tasks[task] for t in study.trials if task in t.record.tasks) for task in study.tasks]
    scales = [percent if scores.higher_is_better else _three for scores in seen]
    lower = any(not scores.higher_is_better for scores in seen)
    table = Table(
        f"Final score by task{'' if lower else ', %'}",
        ["Method", *study.tasks],
        caption="Mean over trials of the score after the last task, with its 95 % CI over trials; ±, where there is "
        "none and of the base model: standard error over the items. Chance is the score of guessing.",
        fixed=[
            ["Metric", *(_metric_of(scores, ", %") if lower else scores.metric for scores in seen)],
            ["Test items", *(str(scores.items) for scores in seen)],
            ["Chance", *(scale(scores.chance) for scale, scores in zip(scales, seen, strict=True))],
            ["Base model", *_base(arms, study.tasks, scales)],
            *_headroom(study),
        ],
    )
    for arm in arms:
        finals = [_final(arm, task, scale) for task, scale in zip(study.tasks, scales, strict=True)]
        table.rows.append([arm.name, *finals])
    return table


def _headroom(study: StudyResults) -> list[list[str]]:
    """What can be reached on each task by itself, with a mark where that is nothing; no rows where no control tells."""
    found = [study.headroom.get(task) for task in study.tasks]
    if not any(found):
        return []
    alone = [f"{percent(each.alone)}{'' if each.learnt else ', not learnt'}" if each else NOTHING for each in found]
    return [
        ["Most frequent answer", *(percent(each.majority) if each else NOTHING for each in found)],
        ["Trained on alone", *alone],
    ]


def _metric_of(scores: TaskScores, unit: str) -> str:
    """The metric of a column, with its direction or unit where the columns of a table differ in them."""
    return scores.metric + (unit if scores.higher_is_better else ", lower is better")


def _three(value: float | None) -> str:
    return number(value, 3)


def _per_order(study: StudyResults, board: Sequence[BoardRow]) -> list[Table]:
    """Average accuracy and forgetting within each order; no table where there is one order."""
    orders = list(study.streams)
    if len(orders) < 2:
        return []
    headings = [f"{order}: {what}" for order in orders for what in ("accuracy, %", "forgetting")]
    table = Table(
        "By order",
        ["Method", *headings],
        caption="Average accuracy and forgetting (points) of the trials of each order, with 95 % CI.",
    )
    for arm in _trained(board):
        cells = []
        for order in orders:
            for metric in (metrics.metric(PRIMARY), metrics.metric("forgetting")):
                order_values = {key: value for key, value in arm.values(metric.name).items() if key[0] == order}
                value = estimate(order_values, metric.ends) if order_values else None
                cells.append(joined(metric.text(value.mean), interval(value, metric.text)) if value else NOTHING)
        table.rows.append([arm.name, *cells])
    return [table]


def _published(study: StudyResults, board: Sequence[BoardRow]) -> list[Table]:
    """What others reported, below this study's arms; no table where the study names no published numbers."""
    rows = published.rows(study, board)
    return [Table("Published numbers", published.COLUMNS, rows, published.CAPTION)] if rows else []


def _probes(study: StudyResults, board: Sequence[BoardRow]) -> list[Table]:
    """Change of each probe from the base model to the end; no table without probes."""
    probes = {name: scores for trial in study.trials for name, scores in sorted(trial.record.probes.items())}
    if not probes:
        return []
    arms = _trained(board)
    scales = [percent if scores.higher_is_better else _three for scores in probes.values()]
    lower = listed(sorted({s.metric.replace("_", " ") for s in probes.values() if not s.higher_is_better}) or [""])
    table = Table(
        "Probes: end minus base",
        ["Method", *probes],
        caption="Tasks that were never trained on. Accuracies in points"
        + (f"; {lower}: lower is better." if lower else "."),
        fixed=[
            ["Metric", *(scores.metric for scores in probes.values())],
            ["Test items", *(str(scores.items) for scores in probes.values())],
            ["Base model", *_base(arms, list(probes), scales, "probes")],
        ],
    )
    for arm in arms:
        cells = []
        for name, scores in probes.items():
            change = points if scores.higher_is_better else lambda value: number(value, 3, sign=True)
            value = arm.estimate(f"delta_{name}")
            ends = inside(value, SHARES_APART) if value and scores.higher_is_better else value
            cells.append(joined(change(value.mean), interval(ends, change)) if value else NOTHING)
        table.rows.append([arm.name, *cells])
    return [table]
