"""What a reader must know before quoting a number."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.statistics import LEVEL, smallest_p
from harness.report.arms import LEAST_SEEDS, adapter_of, adapters_differ
from harness.report.estimates import certain
from harness.report.leaderboard import Row
from harness.report.numbers import listed, p_text, plural
from harness.report.study import Study
from harness.study.reference import DEFAULT


def notes(study: Study, board: Sequence[Row]) -> list[str]:
    """What a reader must know before quoting a number."""
    sentences = [
        "Intervals are 95 % t intervals over trials, with the study's orders as fixed strata. They are about these "
        "orders, tasks and base model, and are not adjusted for the number of arms. ± is the standard error of one "
        "trial's score over the test items.",
    ]
    sentences += _reference(study)
    if any(row.difference for row in board):
        sentences.append(
            "Differences are paired: same order and seed. p is from a two-sided sign-flip test, then Holm's over the "
            "arms; each outcome has a Holm of its own, and average accuracy is the one that was chosen beforehand."
        )
    if sum(row.ranked for row in board) > 1:
        sentences.append(
            "Arms of one tie group cannot be told apart from its best arm (paired sign-flip tests against that arm, "
            "Holm, 5 %); group 1 is the best. A wide spread can put an arm into a better group than one with a higher "
            "mean: it has not been shown to be worse."
        )
    if any(row.detectable is not None for row in board):
        sentences.append(
            f"Detectable is the true difference to {study.called} in average accuracy that would be significant in "
            "80 % of such studies, at Holm's first step (non-central t, from the arm's own spread)."
        )
    sentences += _power(board) + _standing(study, board)
    if study.quarantined:
        sentences.append(f"Damaged record files were left out: {', '.join(study.quarantined)}.")
    varying = [
        f"{kind} ({', '.join(names)})"
        for kind, names in (
            ("training", study.common(lambda record: record.spec.training)[1]),
            ("scoring", study.common(lambda record: record.spec.scoring)[1]),
            ("probes", study.common(lambda record: {"probes": list(record.spec.probes)})[1]),
        )
        if names
    ]
    adapters = [adapter_of(arm.records[0]) for arm in study.arms if arm.records]
    if varying:
        where = " The table of hyper-parameters has the adapter of each arm." if adapters_differ(study.arms) else ""
        sentences.append(f"Not all trials share the same settings: {'; '.join(varying)} vary.{where}")
    if len({adapter["targets"] for adapter in adapters if "targets" in adapter}) > 1:
        sentences.append(
            "Arms adapt different matrices: intruder counts are sums over those of an arm, intruder distance and the "
            "size of the update are means over them. Such arms are not tested against each other on intruders."
        )
    if cut := _truncated(study):
        sentences.append(f"Items longer than the context lost their beginning, as in lm-eval: {cut}.")
    if any(trial.matrix is None for trial in study.trials):
        sentences.append("Some tasks have a metric where lower is better: their trials have no average accuracy.")
    if any(trial.record.costs.shared_by > 1 for trial in study.trials):
        sentences.append(
            "Trials were trained side by side in packs: seconds and kWh are a pack's divided by its trials, "
            "tokens a second and peak memory are those of the whole pack."
        )
    return sentences


def _reference(study: Study) -> list[str]:
    """Whom arms are compared with and why, unless that is plain LoRA as the study has it, for all of them."""
    compared = study.compared
    if compared is None or (compared.arm == DEFAULT and not compared.partners):
        return []
    sentences = [f"The reference is {compared.arm}: {compared.why}."]
    on_board = [arm.name for arm in study.arms if arm.name in compared.partners]
    if on_board:
        pairs = listed([f"{arm} with {compared.partners[arm]}" for arm in on_board])
        sentences.append(f"Compared at equal settings, not with the reference itself: {pairs}.")
    return sentences


def _truncated(study: Study) -> str:
    """``task (3 of 500 items)`` for every task and probe where that happened."""
    columns = [column for trial in study.trials for column in (trial.record.tasks | trial.record.probes).items()]
    cut = {name: f"{name} ({scores.truncated} of {scores.items} items)" for name, scores in columns if scores.truncated}
    return ", ".join(cut[name] for name in sorted(cut))


def _power(board: Sequence[Row]) -> list[str]:
    """Where the number of pairs alone forbids a small p."""
    tested = [certain(row.difference).pairs for row in board if row.p is not None]
    sentences = []
    for pairs in sorted(set(tested)):
        first = smallest_p(pairs) * len(tested)
        if smallest_p(pairs) >= LEVEL:
            sentences.append(
                f"{plural(pairs, 'pair')} cannot go below p = {p_text(smallest_p(pairs))}, whatever the data."
            )
        elif first >= LEVEL:
            sentences.append(
                f"With {pairs} pairs and {len(tested)} arms compared, Holm's first step cannot go below "
                f"p = {p_text(first)}, whatever the data."
            )
    return sentences


def _standing(study: Study, board: Sequence[Row]) -> list[str]:
    """Provisional, incomplete and untuned arms."""
    sentences = []
    few = [row.arm.name for row in board if row.arm.trials and row.arm.seeds < LEAST_SEEDS]
    if few:
        sentences.append(f"Provisional, with fewer than {LEAST_SEEDS} seeds, and not ranked: {', '.join(few)}.")
    broken = [row.arm.name for row in board if any(row.arm.failures().values())]
    if broken:
        sentences.append(
            f"Not ranked, because trials diverged, failed or are missing: {', '.join(broken)}. "
            "Their means are over the trials that finished, which can flatter them."
        )
    specs = {arm.name: [record.spec for record in arm.records] for arm in study.arms}
    untuned = [name for name, arm_specs in specs.items() if arm_specs and not all(spec.tuned for spec in arm_specs)]
    trained = [arm.name for arm in study.arms if arm.records and arm.trains]
    if trained and set(trained) <= set(untuned):
        sentences.append("No arm was tuned: each ran with one fixed setting, and another setting may change the order.")
    elif left := [name for name in trained if name in untuned]:
        sentences.append(f"Not tuned, while others were: {', '.join(left)}. The comparison favours the tuned arms.")
    tried = {arm.method: arm.settings_tried for arm in study.arms if arm.name in trained}
    if len(set(tried.values())) > 1:
        each = ", ".join(f"{method} {count}" for method, count in sorted(tried.items()))
        sentences.append(
            f"More settings were tried of one method than of another ({each}): the best of many flatters it."
        )
    return sentences
