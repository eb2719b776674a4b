"""report.html and report.md: one set of tables and sentences, two templates."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.analysis.statistics import Estimate
from harness.report import published, words
from harness.report.frame import Arm, estimate
from harness.report.leaderboard import PRIMARY, Row, trial_count
from harness.report.plots import FIGURES
from harness.report.render import Table, settings, write_pair
from harness.report.study import Study
from harness.report.style import color
from harness.report.words import NOTHING, interval, number, percent, points, with_error

CAPTIONS = {
    "accuracy_matrix": (
        "Accuracy matrix",
        "Score on each task (columns) of the base model and after each training task (rows), mean over trials. "
        "Framed: the task just learnt. With several orders the columns are positions in the stream.",
    ),
    "forgetting": (
        "Forgetting over the stream",
        "Best earlier score minus the score now, mean over the tasks learnt before. 95 % CI; points are moved aside "
        "so that intervals don't hide each other.",
    ),
    "intruders": (
        "Intruder dimensions",
        "Left singular vectors of the scored weights that resemble none of the original ones (best |cosine| below "
        "0.5), and how far the top ten are from the nearest original one on average. 95 % CI.",
    ),
    "sample_efficiency": (
        "Sample efficiency",
        "Score on the task being learnt, mean over tasks, against its examples and against all tokens spent on it "
        "(student, teacher, sampled). Log2 axes; hollow: before the first example. Bands are 95 % CI.",
    ),
    "accuracy_forgetting": (
        "Accuracy against forgetting",
        "Arms with 95 % CI both ways, trials as faint dots, incomplete arms hollow. Dashed: the arms whose means no "
        "other arm beats on both (the Pareto front), without the frozen model, which forgets nothing by not learning.",
    ),
    "intruders_by_epsilon": (
        "Intruder dimensions over the threshold",
        "The count after the last task for other thresholds than 0.5, mean over trials, 95 % CI.",
    ),
    "intruders_by_place": (
        "Intruder dimensions by type of matrix and depth",
        "Counts are sums over the matrices of a type or layer, distances means over them, after the last task.",
    ),
    "intruders_forgetting": (
        "Forgetting against intruder dimensions",
        "A point a trained trial. Spearman's rho is over all of them, with its 95 % CI (Bonett and Wright 2000); it is "
        "not defined where one side is constant.",
    ),
}
#: Column -> (heading, how to write it).
METRICS = {
    "learning_accuracy": ("Learning accuracy, %", percent),
    "forgetting": ("Forgetting, points", lambda value: number(value, 1, 100)),
    "backward_transfer": ("BWT, points", points),
    "general_delta": ("General Δ, points", points),
    "plain_text_delta": ("Plain text Δ, bits/byte", lambda value: number(value, 3, sign=True)),
    "sample_efficiency_auc": ("Sample efficiency AUC, points", points),
    "intruder_count": ("Intruders", lambda value: number(value, 1)),
    "intruder_distance": ("Intruder distance", lambda value: number(value, 5)),
}
MORE = {
    "average_accuracy_over_time": ("Average accuracy over time, %", percent),
    "forward_transfer": ("Forward transfer, points", points),
    "normalised_forgetting": ("Share of the gain lost, %", percent),
    "examples_to_90": ("Examples to 90 % (restricted mean)", lambda value: number(value, 0)),
    "examples_to_90_share": ("… tasks that reached it, %", lambda value: number(value, 0, 100)),
    "tokens_to_90": ("Tokens to 90 % (restricted mean)", lambda value: number(value, 0)),
    "tokens_to_90_share": ("… tasks that reached it, %", lambda value: number(value, 0, 100)),
}
COSTS = {
    "train_seconds": ("Training, s", lambda value: number(value, 1)),
    "score_seconds": ("Scoring, s", lambda value: number(value, 1)),
    "tokens_per_second": ("Tokens/s (pack)", lambda value: number(value, 0)),
    "peak_memory_gib": ("Peak memory, GiB (pack)", lambda value: number(value, 2)),
    "train_tokens": ("Student tokens", lambda value: number(value, 0)),
    "teacher_tokens": ("Teacher tokens", lambda value: number(value, 0)),
    "sampled_tokens": ("Sampled tokens", lambda value: number(value, 0)),
    "adapter_bytes": ("Adapter, MB", lambda value: number(value, 2, 1e-6)),
    "trained_parameters": ("Trained parameters", lambda value: number(value, 0)),
    "energy_kwh": ("Energy, kWh", lambda value: number(value, 4)),
}


def write_pages(study: Study, board: Sequence[Row], folder: Path) -> list[Path]:
    """Write report.md and report.html; the figures must be in ``folder/figures``."""
    return write_pair("report", _context(study, board), {name: CAPTIONS[name] for name in FIGURES}, folder)


def _context(study: Study, board: Sequence[Row]) -> dict[str, Any]:
    common, _ = study.common(lambda record: {"model": record.spec.model, "weights": record.spec.model_digest})
    stack, mixed = study.common(lambda record: record.stack)
    training, _ = study.common(lambda record: record.spec.training)
    scoring, _ = study.common(lambda record: record.spec.scoring)
    names = list(dict.fromkeys(record.study for record in study.records))
    return {
        "study": study.name,
        "names": names,
        "commands": [shlex.quote(name) for name in names],
        "model": common.get("model", "several models"),
        "summary": words.summary(study, board),
        "notes": words.notes(study, board),
        "mixtures": study.mixtures,
        "leaderboard": _leaderboard(board),
        "rows": [_board_row(row, bar) for row, bar in zip(board, _bars(board, study.reference), strict=True)],
        "tables": [
            *_published(study, board),
            _per_task(study, board),
            *_probes(study, board),
            _metric_table("More metrics", board, MORE,
                          "90 %: base model plus 0.9 of plain LoRA's mean best gain on the task; tasks that never get "
                          "there count with the full budget that all arms had."),
            _metric_table("Costs of a trial", board, COSTS, "Means over finished trials; –: nothing was measured."),
        ],
        "failures": [_failure(record) for arm in study.arms for record in arm.unfinished],
        "streams": {name: " → ".join(stream) for name, stream in study.streams.items()},
        "settings": settings(common | training | {f"scoring: {key}": value for key, value in scoring.items()}),
        "parameters": _parameters(study),
        "stack": settings(stack | dict.fromkeys(mixed, "(several)")),
    }  # fmt: skip


def _leaderboard(board: Sequence[Row]) -> Table:
    """The board as text, for Markdown; the page draws the same cells with bars."""
    headings = ["Method", "Trials", "Average accuracy, %", "Difference to LoRA, points", "p", "p (Holm)"]
    table = Table("Leaderboard", [*headings, *(heading for heading, _ in METRICS.values()), "Settings tried", "Ranked"])
    for row in board:
        cells = _board_row(row, None)
        table.rows.append(
            [
                row.arm.name,
                cells["trials"],
                _joined(cells["accuracy"], cells["interval"]),
                _joined(cells["difference"], cells["difference_interval"]),
                cells["p"],
                cells["p_holm"],
                *cells["metrics"],
                cells["settings_tried"],
                cells["why_not"] or "yes",
            ]
        )
    return table


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _board_row(row: Row, bar: dict[str, Any] | None) -> dict[str, Any]:
    arm, gap = row.arm, row.difference
    outcome, error = arm.estimate(PRIMARY), arm.estimate(f"{PRIMARY}_stderr")
    tried = {trial.record.spec.settings_tried for trial in arm.trials}
    return {
        "name": arm.name, "color": color(arm.method), "trials": trial_count(arm), "why_not": row.why_not, "bar": bar,
        "accuracy": with_error(percent(outcome.mean if outcome else None), error.mean if error else None),
        "interval": interval(outcome),
        "difference": points(gap.mean if gap else None),
        "difference_interval": interval(Estimate(gap.mean, gap.low, gap.high, gap.pairs), points) if gap else "",
        "p": words.p_text(row.p), "p_holm": words.p_text(row.p_holm),
        "metrics": [write(value.mean) if (value := arm.estimate(name)) else NOTHING
                    for name, (_, write) in METRICS.items()],
        "settings_tried": str(max(tried)) if tried else NOTHING,
    }  # fmt: skip


def _bars(board: Sequence[Row], reference: Arm | None) -> list[dict[str, Any] | None]:
    """Point and interval of the outcome on one axis from 0 to 100 for all arms, and plain LoRA's mean as a mark."""
    outcomes = [row.arm.estimate(PRIMARY) for row in board]
    # The frozen model may be far below all others; it must not squeeze their intervals into one spot.
    trained = [v for row, v in zip(board, outcomes, strict=True) if v and row.arm.method != "frozen"]
    ends = [x for v in trained or outcomes if v for x in (v.mean, v.low, v.high) if x is not None]
    if not ends:
        return [None] * len(outcomes)
    low, high = min(ends), max(ends)
    low, high = (low, high) if high - low >= 0.02 else (low - 0.01, high + 0.01)

    def at(x: float | None) -> str | None:
        return None if x is None else f"{3 + 94 * (x - low) / (high - low):.2f}"

    mark = next((at(v.mean) for row, v in zip(board, outcomes, strict=True) if v and row.arm is reference), None)
    return [
        {"mean": at(v.mean), "low": at(v.low), "high": at(v.high), "mark": mark}
        if v and low <= v.mean <= high
        else None
        for v in outcomes
    ]


def _metric_table(heading: str, board: Sequence[Row], metrics: dict[str, tuple[str, Any]], caption: str) -> Table:
    """Means over trials; metrics that no arm has are left out."""
    estimates = {name: [row.arm.estimate(name) for row in board] for name in metrics}
    shown = [name for name in metrics if any(estimates[name])]
    table = Table(heading, ["Method", *(metrics[name][0] for name in shown)], caption=caption)
    for i, row in enumerate(board):
        if row.arm.trials:
            own = [estimates[name][i] for name in shown]
            cells = [metrics[n][1](v.mean) if v else NOTHING for n, v in zip(shown, own, strict=True)]
            table.rows.append([row.arm.name, *cells])
    return table


def _scores(arm: Arm, task: str, stage: int, group: str = "tasks", of: str = "score") -> Estimate | None:
    """Mean score of a task or probe at a stage (0 base, -1 end) over those of the arm's trials that have the task.

    With ``of="stderr"``: the mean of their standard errors over the test items.
    """
    scores = {trial.key: getattr(trial.record, group).get(task) for trial in arm.trials}
    values = {key: getattr(found, of)[stage] for key, found in scores.items() if found is not None}
    return estimate(values) if values and None not in values.values() else None


def _scored(arm: Arm, task: str, stage: int, scale: Any, group: str = "tasks") -> str:
    """Mean score ± its standard error over the test items."""
    value, error = _scores(arm, task, stage, group), _scores(arm, task, stage, group, "stderr")
    return with_error(scale(value.mean), error.mean if error else None, scale) if value else NOTHING


def _base_score(arms: Sequence[Arm], task: str, scale: Any, group: str = "tasks") -> str:
    """The base model's, from the first arm that has it."""
    return next((text for arm in arms if (text := _scored(arm, task, 0, scale, group)) != NOTHING), NOTHING)


def _per_task(study: Study, board: Sequence[Row]) -> Table:
    """Final score of every arm on every task."""
    arms = [row.arm for row in board if row.arm.trials]
    caption = (
        "Mean over trials of the score after the last task ± standard error over the items, with its 95 % CI over "
        "trials; chance is the score of guessing."
    )
    table = Table(
        "Final score by task, %",
        ["Task", "Metric", "Items", "Chance", "Base", *(a.name for a in arms)],
        caption=caption,
    )
    for task in study.tasks:
        seen = next(trial.record.tasks[task] for trial in study.trials if task in trial.record.tasks)
        scale = percent if seen.higher_is_better else lambda value: number(value, 3)
        finals = [_joined(_scored(arm, task, -1, scale), interval(_scores(arm, task, -1), scale)) for arm in arms]
        table.rows.append(
            [
                task,
                seen.metric,
                str(seen.items),
                scale(seen.chance),
                _base_score(arms, task, scale),
                *finals,
            ]
        )
    return table


def _published(study: Study, board: Sequence[Row]) -> list[Table]:
    """What others reported, below this study's arms; no table where the study names none."""
    rows = published.rows(study, board)
    return [Table("Published numbers", published.COLUMNS, rows, published.CAPTION)] if rows else []


def _probes(study: Study, board: Sequence[Row]) -> list[Table]:
    """Change of each probe from the base model to the end; no table without probes."""
    probes = {name: scores for trial in study.trials for name, scores in sorted(trial.record.probes.items())}
    arms = [row.arm for row in board if row.arm.trials]
    table = Table(
        "Probes: end minus base",
        ["Probe", "Metric", "Items", "Base", *(arm.name for arm in arms)],
        caption="Tasks that were never trained on. Accuracies in points; bits per byte: lower is better.",
    )
    for name, seen in probes.items():
        shown, change = (
            (percent, points)
            if seen.higher_is_better
            else (lambda value: number(value, 3), lambda value: number(value, 3, sign=True))
        )
        deltas = [arm.estimate(f"delta_{name}") for arm in arms]
        cells = [_joined(change(v.mean), interval(v, change)) if v else NOTHING for v in deltas]
        table.rows.append([name, seen.metric, str(seen.items), _base_score(arms, name, shown, "probes"), *cells])
    return [table] if table.rows else []


def _failure(record: Any) -> dict[str, str]:
    failure = record.failure
    return {
        "title": f"{record.spec.arm}, order {record.spec.order}, seed {record.spec.seed}: {record.status}",
        "phase": failure.phase, "message": failure.message, "traceback": failure.traceback,
    }  # fmt: skip


def _parameters(study: Study) -> Table:
    """Hyper-parameters of every arm, as its first record has them."""
    specs = {arm.name: next((r.spec for r in study.records if r.spec.arm == arm.name), None) for arm in study.arms}
    names = sorted({name for spec in specs.values() if spec for name in spec.parameters})
    table = Table("Hyper-parameters", ["Method", *names, "Tuned", "Settings tried"])
    for arm, spec in specs.items():
        if spec:
            values = [
                settings({"": spec.parameters[name]})[""] if name in spec.parameters else NOTHING for name in names
            ]
            table.rows.append([arm, *values, "yes" if spec.tuned else "no", str(spec.settings_tried)])
    return table
