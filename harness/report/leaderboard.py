"""The leaderboard: one row an arm, ranked where the evidence is complete, each compared with plain LoRA in pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.analysis.statistics import Paired, holm, paired_difference
from harness.report.frame import COSTS, INTRUDERS, Arm
from harness.report.study import Study

PRIMARY = "average_accuracy"
#: The first columns of leaderboard.csv, a promise to whoever reads it with a script.
FIRST = (
    "method",
    "trials",
    "average_accuracy",
    "average_accuracy_ci_low",
    "average_accuracy_ci_high",
    "backward_transfer",
    "forgetting",
    "learning_accuracy",
    "general_delta",
    "plain_text_delta",
    "sample_efficiency_auc",
    "intruder_count",
    "intruder_distance",
    "tokens_per_second",
    "peak_memory_gib",
    "settings_tried",
)
DIFFERENCE = (
    "difference_to_lora",
    "difference_to_lora_ci_low",
    "difference_to_lora_ci_high",
    "pairs",
    "p",
    "p_holm",
)
STATE = ("ranked", "why_not_ranked", "tuned", "diverged", "failed", "missing", "seeds", "orders", "items_per_task")
MORE = (
    "average_accuracy_stderr",
    "average_accuracy_over_time",
    "backward_transfer_trace",
    "forward_transfer",
    "normalised_forgetting",
    "examples_to_90",
    "examples_to_90_share",
    "tokens_to_90",
    "tokens_to_90_share",
)
#: Beside the primary outcome, these carry their interval.
WITH_INTERVAL = (
    "backward_transfer",
    "forgetting",
    "learning_accuracy",
    "general_delta",
    "plain_text_delta",
    "sample_efficiency_auc",
    "intruder_count",
    "intruder_distance",
)


@dataclass(frozen=True)
class Row:
    """An arm on the board; ``difference`` is to plain LoRA on the primary outcome, ``p_holm`` is over the arms."""

    arm: Arm
    difference: Paired | None
    p: float | None
    p_holm: float | None
    why_not: str

    @property
    def ranked(self) -> bool:
        return not self.why_not


def rows(study: Study) -> list[Row]:
    """The board's rows: ranked arms first, by average accuracy, then the others; ties by name."""
    reference = study.reference
    why = {arm.name: arm.why_not_ranked() for arm in study.arms}
    differences: dict[str, Paired | None] = {}
    for arm in study.arms:
        other = (
            None
            if reference is None or arm is reference
            else paired_difference(arm.values(PRIMARY), reference.values(PRIMARY))
        )
        differences[arm.name] = other
    # Only complete arms are tested: the pairs that survived a divergence say nothing about those that did not.
    ready = reference is not None and not why[reference.name]
    p_values = {name: gap.p for name, gap in differences.items() if gap and ready and not why[name]}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    table = [
        Row(arm, differences[arm.name], p_values.get(arm.name), adjusted.get(arm.name), why[arm.name])
        for arm in study.arms
    ]
    return sorted(table, key=_rank)


def _rank(row: Row) -> tuple[bool, float, str]:
    outcome = row.arm.estimate(PRIMARY)
    # Rounded, so that a difference in the last bit of a sum doesn't decide over the name.
    return not row.ranked, -round(outcome.mean, 12) if outcome else float("inf"), row.arm.name


def trial_count(arm: Arm) -> str:
    return f"{len(arm.trials)}/{arm.expected}"


def columns(study: Study) -> list[str]:
    """All columns of leaderboard.csv: the promised ones, then the statistics, the state, more metrics, each probe."""
    probes = sorted({name for trial in study.trials for name in trial.metrics if name.startswith("delta_")})
    intervals = [f"{name}_ci_{side}" for name in WITH_INTERVAL for side in ("low", "high")]
    wanted = [*FIRST, *DIFFERENCE, *STATE, *MORE, *intervals, *INTRUDERS, *COSTS, "shared_by", *probes]
    return list(dict.fromkeys(wanted))


def table(study: Study) -> list[dict[str, Any]]:
    """leaderboard.csv, in order of :func:`rows`: every metric as its mean over the arm's finished trials."""
    names = columns(study)
    board = []
    for row in rows(study):
        arm = row.arm
        line: dict[str, Any] = {"method": arm.name, "trials": trial_count(arm)}
        for name in names:
            if name not in line and (value := arm.estimate(name)):
                line[name] = value.mean
        for name in (PRIMARY, *WITH_INTERVAL):
            if value := arm.estimate(name):
                line |= {f"{name}_ci_low": value.low, f"{name}_ci_high": value.high}
        if gap := row.difference:
            line |= dict(zip(DIFFERENCE, (gap.mean, gap.low, gap.high, gap.pairs, row.p, row.p_holm), strict=True))
        board.append(line | _state(row))
    return board


def _state(row: Row) -> dict[str, Any]:
    records = [trial.record for trial in row.arm.trials] + row.arm.unfinished
    return {
        "ranked": row.ranked,
        "why_not_ranked": row.why_not,
        "tuned": all(record.spec.tuned for record in records) if records else None,
        "settings_tried": max((record.spec.settings_tried for record in records), default=None),
        **row.arm.failures(),
        "seeds": row.arm.seeds,
        "orders": len({trial.record.spec.order for trial in row.arm.trials}),
        "items_per_task": items_per_task(row.arm),
        "shared_by": max((record.costs.shared_by for record in records), default=None),
    }


def items_per_task(arm: Arm) -> str | int | None:
    """Test items behind each score: one number if all tasks agree, else ``task=items`` for each."""
    counts = {t: trial.record.tasks[t].items for trial in arm.trials for t in trial.record.spec.stream}
    if not counts:
        return None
    if len(set(counts.values())) == 1:
        return next(iter(counts.values()))
    return "; ".join(f"{task}={items}" for task, items in sorted(counts.items()))
