"""The leaderboard: one row an arm, ranked where the evidence is complete, each compared with plain LoRA in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.statistics import Paired, holm, minimum_detectable_effect, paired_differences, tie_groups
from harness.report.arms import ADAPTER, Arm, adapter_of, same_matrices
from harness.report.csv_files import TABLE_SCHEMA
from harness.report.evidence import COSTS, INTRUDERS
from harness.report.study import Study

PRIMARY = "average_accuracy"
#: Also compared with plain LoRA, each with Holm of its own over the arms.
SECONDARY = ("forgetting", "sample_efficiency_auc", "intruder_count", "intruder_distance")
#: Of these, what is counted in the adapted matrices.
OF_MATRICES = ("intruder_count", "intruder_distance")
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
    "minimum_detectable_effect",
    "tie_group",
)
#: Of each secondary outcome, after its name.
SECOND = ("_difference_to_lora", "_difference_to_lora_ci_low", "_difference_to_lora_ci_high", "_p", "_p_holm")
STATE = ("ranked", "why_not_ranked", "tuned", "diverged", "failed", "missing", "seeds", "orders", "items_per_task")
MORE = (
    "average_accuracy_stderr",
    "interquartile_mean",
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
class Tested:
    """The paired difference of an arm to plain LoRA in one outcome, and its p after Holm over the arms."""

    gap: Paired
    p_holm: float | None  #: None where the arm, or plain LoRA, is not ranked

    @property
    def p(self) -> float | None:
        return self.gap.p if self.p_holm is not None else None


@dataclass(frozen=True)
class Row:
    """An arm on the board, compared with plain LoRA in the primary outcome and the ``SECONDARY`` ones."""

    arm: Arm
    tested: dict[str, Tested]
    group: int | None  #: arms of one group can't be told apart from its best; None for an arm that is not ranked
    detectable: float | None  #: minimum detectable effect on the primary outcome
    why_not: str

    @property
    def ranked(self) -> bool:
        return not self.why_not

    @property
    def difference(self) -> Paired | None:
        return self.tested[PRIMARY].gap if PRIMARY in self.tested else None

    @property
    def p(self) -> float | None:
        return self.tested[PRIMARY].p if PRIMARY in self.tested else None

    @property
    def p_holm(self) -> float | None:
        return self.tested[PRIMARY].p_holm if PRIMARY in self.tested else None


def rows(study: Study) -> list[Row]:
    """The board's rows: ranked arms first, by average accuracy, then the others; ties by name."""
    why = {arm.name: arm.why_not_ranked() for arm in study.arms}
    tested = {metric: _tests(study, metric, why) for metric in (PRIMARY, *SECONDARY)}
    groups = tie_groups({arm.name: arm.values(PRIMARY) for arm in study.arms if not why[arm.name]})
    count = sum(found.p is not None for found in tested[PRIMARY].values())
    table = []
    for arm in study.arms:
        own = {metric: found[arm.name] for metric, found in tested.items() if arm.name in found}
        detectable = None
        if PRIMARY in own and own[PRIMARY].p is not None:
            detectable = minimum_detectable_effect(own[PRIMARY].gap, count)
        table.append(Row(arm, own, groups.get(arm.name), detectable, why[arm.name]))
    return sorted(table, key=_rank)


def _tests(study: Study, metric: str, why: dict[str, str]) -> dict[str, Tested]:
    """Every arm against plain LoRA.

    Only complete arms are tested: the pairs that survived a divergence say nothing about those that did not.  Intruders
    are compared between arms that adapt the same matrices: other matrices have other counts without any method.
    """
    reference = study.reference
    if reference is None:
        return {}
    others = [arm for arm in study.arms if arm is not reference]
    if metric in OF_MATRICES:
        others = [arm for arm in others if same_matrices(arm, reference)]
    arms = {arm.name: values for arm in others if (values := arm.values(metric))}
    gaps = paired_differences(arms, reference.values(metric))
    ready = [name for name, gap in gaps.items() if gap.p is not None and not why[name] and not why[reference.name]]
    adjusted = dict(zip(ready, holm([gaps[name].p for name in ready]), strict=True))
    return {name: Tested(gap, adjusted.get(name)) for name, gap in gaps.items()}


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
    second = [metric + end for metric in SECONDARY for end in SECOND]
    metrics = [*FIRST, *DIFFERENCE, *STATE, *MORE, *intervals, *second, *INTRUDERS, *COSTS, "shared_by"]
    return list(dict.fromkeys([*metrics, *ADAPTER, *probes, "schema_version"]))


def table(study: Study, board: Sequence[Row]) -> list[dict[str, Any]]:
    """leaderboard.csv, in order of :func:`rows`: every metric as its mean over the arm's finished trials."""
    names = columns(study)
    lines = []
    for row in board:
        arm = row.arm
        line: dict[str, Any] = {"method": arm.name, "trials": trial_count(arm), "schema_version": TABLE_SCHEMA}
        for name in names:
            if name not in line and (value := arm.estimate(name)):
                line[name] = value.mean
        for name in (PRIMARY, *WITH_INTERVAL):
            if value := arm.estimate(name):
                line |= {f"{name}_ci_low": value.low, f"{name}_ci_high": value.high}
        if gap := row.difference:
            numbers = (gap.mean, gap.low, gap.high, gap.pairs, row.p, row.p_holm, row.detectable)
            line |= dict(zip(DIFFERENCE, numbers, strict=False))
        for metric in SECONDARY:
            if found := row.tested.get(metric):
                numbers = (found.gap.mean, found.gap.low, found.gap.high, found.p, found.p_holm)
                line |= dict(zip((metric + end for end in SECOND), numbers, strict=True))
        lines.append(line | {"tie_group": row.group, "interquartile_mean": arm.interquartile_mean()} | _state(row))
    return lines


def _state(row: Row) -> dict[str, Any]:
    records = row.arm.records
    return {
        "ranked": row.ranked,
        "why_not_ranked": row.why_not,
        "tuned": all(record.spec.tuned for record in records) if records else None,
        "settings_tried": row.arm.settings_tried,
        **row.arm.failures(),
        "seeds": row.arm.seeds,
        "orders": len({trial.record.spec.order for trial in row.arm.trials}),
        "items_per_task": items_per_task(row.arm),
        "shared_by": max((record.costs.shared_by for record in records), default=None),
        **(adapter_of(records[0]) if records else {}),
    }


def items_per_task(arm: Arm) -> str | int | None:
    """Test items behind each score: one number if all tasks agree, else ``task=items`` for each."""
    counts = {t: trial.record.tasks[t].items for trial in arm.trials for t in trial.record.spec.stream}
    if not counts:
        return None
    if len(set(counts.values())) == 1:
        return next(iter(counts.values()))
    return "; ".join(f"{task}={items}" for task, items in sorted(counts.items()))
