"""leaderboard.csv: one row per arm, in the order of the board."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from harness.report import metrics
from harness.report.arms import ADAPTER, Arm, adapter_of
from harness.report.csv_files import SCHEMA_VERSION, TABLE_SCHEMA
from harness.report.leaderboard import BoardRow, trial_count
from harness.report.metrics import PRIMARY
from harness.report.study import StudyResults

#: Columns that are not metrics, and what they are (for results/README.md); the promised metrics stand among the first.
NAME = {
    "method": "the arm: a method, or `method@setting`",
    "trials": "finished trials / trials of the plan",
}
TRIED = {
    "settings_tried": "settings of this method: each of its arms on this board is one, or as many as `tune` tried to "
    "choose it",
}
DIFFERENCE = {
    "reference": "the arm that it is compared with; `lora`, unless the study says otherwise",
    "difference_to_reference": "paired difference to that arm in average accuracy: same order and seed",
    "difference_to_reference_ci_low": "",
    "difference_to_reference_ci_high": "",
    "pairs": "how many pairs that is",
    "p": "two-sided p of the t behind that interval; empty for a control, an arm that is not ranked, and pairs without "
    "a spread",
    "p_holm": "the same after Holm over the contestants; below 0.05 is called significant",
    "minimum_detectable_effect": "true difference to the reference with 80 % power at Holm's first step; empty "
    "without a test",
}
STANDING = {
    "p_sign_flip": "two-sided p of the sign-flip test of the same differences, a check that assumes no distribution; "
    "exact up to 16 pairs, empty below 6",
    "difference_to_reference_block_low": "end of a second interval of `difference_to_reference`, from the noise that "
    "all trained arms share; empty where they are not equally noisy",
    "difference_to_reference_block_high": "its other end",
    "control": "`yes` for arms that are there to compare with: in no tie group, and never the winner",
    "tie_group": "contestants of one group can't be told apart from its best (tests of all pairs at once, 5 %); 1 is "
    "the best, empty where that is not testable",
}
STATE = {
    "ranked": "`no` for arms with a diverged, failed or missing trial or fewer than 3 seeds",
    "why_not_ranked": "which of these it is",
    "tuned": "whether the trials have the setting that `tuning.json` chose for the arm, as it is there now",
    "place_in_grid": "where that setting lies among the numbers that were tried: `inside`, `at an end` (a better one "
    "may lie beyond); empty for an arm that is not tuned, and for fewer than three values",
    "diverged": "trials without scores: their numbers were not finite",
    "failed": "trials without scores: an error",
    "missing": "trials of the plan without a record",
    "partial": "`yes` in every row of a table that was made while trials of the plan had no record",
    "seeds": "seeds of the finished trials",
    "orders": "orders of the finished trials",
    "items_per_task": "test items behind each score",
}
#: Columns of each secondary outcome: what follows its name.
SECOND = {
    "_difference_to_reference": "like `difference_to_reference`, in this outcome",
    "_difference_to_reference_ci_low": "",
    "_difference_to_reference_ci_high": "",
    "_p": "two-sided p of the t behind that interval",
    "_p_holm": "the same after a Holm of its own over the contestants",
}
SHARED = {"shared_by": "trials of its pack"}


def columns(probes: Iterable[str]) -> dict[str, str]:
    """All columns and what they are: the promised ones, the statistics, the state, more metrics, each probe.

    Ends of intervals belong to the column before them and have an empty description.
    """
    trial = metrics.taken_of("trial", "arm")
    meanings = dict(NAME)
    for metric in metrics.promised():
        meanings[metric.name] = metric.meaning
        if metric.name == PRIMARY:
            meanings |= _ends(metric.name)
    meanings |= TRIED | DIFFERENCE | STANDING | STATE
    meanings |= {metric.name: metric.meaning for metric in trial if metric.name not in meanings}
    for metric in metrics.with_interval():
        meanings |= _ends(metric.name)
    for metric in metrics.secondary():
        meanings |= {metric.name + end: meaning for end, meaning in SECOND.items()}
    for metric in metrics.taken_of("weights", "costs"):
        meanings.setdefault(metric.name, metric.meaning)
    meanings |= SHARED | ADAPTER
    families = metrics.taken_of("probe")
    meanings |= dict(sorted((family.named(probe), family.meaning) for family in families for probe in probes))
    return meanings | {SCHEMA_VERSION: "of this table"}


def _ends(name: str) -> dict[str, str]:
    return {f"{name}_ci_low": "", f"{name}_ci_high": ""}


def columns_of(study: StudyResults) -> list[str]:
    """The columns of a study's table."""
    return list(columns({name for trial in study.trials for name in trial.record.probes}))


def table(board: Sequence[BoardRow], *, partial: bool = False) -> list[dict[str, Any]]:
    """The rows: every metric as its mean over the arm's finished trials; ``partial`` marks them all."""
    return [_line(row) | {"partial": partial} for row in board]


def _line(row: BoardRow) -> dict[str, Any]:
    arm = row.arm
    line: dict[str, Any] = {"method": arm.name, "trials": trial_count(arm), SCHEMA_VERSION: TABLE_SCHEMA}
    for metric in metrics.METRICS:
        if metric.of != "probe":
            line[metric.name] = arm.mean(metric)
    probes = {name for trial in arm.trials for name in trial.record.probes}
    for name in (family.named(probe) for family in metrics.taken_of("probe") for probe in probes):
        if value := arm.estimate(name):
            line[name] = value.mean
    for metric in metrics.with_interval():
        if value := arm.estimate(metric.name):
            line |= {f"{metric.name}_ci_low": value.low, f"{metric.name}_ci_high": value.high}
    if gap := row.difference:
        name = row.partner.name if row.partner else None
        numbers = (name, gap.mean, gap.low, gap.high, gap.pairs, row.p, row.p_holm, row.detectable)
        line |= dict(zip(DIFFERENCE, numbers, strict=False))
    for metric in metrics.secondary():
        if test := row.tested.get(metric.name):
            p = test.gap.p if test.p_holm is not None else None
            numbers = (test.gap.mean, test.gap.low, test.gap.high, p, test.p_holm)
            line |= dict(zip((metric.name + end for end in SECOND), numbers, strict=True))
    check = row.difference.p_sign_flip if row.difference and row.p_holm is not None else None
    ends = (row.block.low, row.block.high) if row.block else (None, None)
    standing = (check, *ends, row.arm.control, row.group)
    return line | dict(zip(STANDING, standing, strict=True)) | _state(row)


def _state(row: BoardRow) -> dict[str, Any]:
    records = row.arm.records
    return {
        "ranked": row.ranked,
        "why_not_ranked": row.why_not,
        "tuned": row.arm.tuned if records else None,
        "place_in_grid": row.arm.choice.place if row.arm.choice and row.arm.tuned else None,
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
