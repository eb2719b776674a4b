"""What a reader must know before quoting a number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from harness.analysis.statistics import LEAST_PAIRS, Estimate
from harness.report import metrics
from harness.report.arms import LEAST_SEEDS, adapter_of, adapters_differ
from harness.report.headroom import LEAST_GAIN
from harness.report.leaderboard import Board, BoardRow
from harness.report.numbers import interval, listed
from harness.report.reliability import caveats
from harness.report.study import StudyResults
from harness.report.text.answer import TESTS
from harness.study.reference import DEFAULT

#: Measured with `core` on H100s (two runs of an arm in other packs, or on another card), and with the 24 trained trials
#: of `quick` on two CPU cores and on an H200.
RERUN = (
    "Rerun noise: the same arm, seeds and orders in other packs or on another GPU differ by 1.8 points of accuracy and "
    "1.9 points of forgetting where 300 items a task are scored (rms of two runs; at most 4.2 and 3.8), and on a CPU "
    "and on a GPU, with other libraries, by 3.9 and 7.5 points with 24 items a task (at most 13.9 and 22.9). A "
    "difference of single runs below that means nothing. On a CPU a rerun gives the same bits."
)


def notes(study: StudyResults, board: Board) -> list[str]:
    """What a reader must know before quoting a number."""
    sentences = [
        "Intervals are 95 % t intervals over trials, with the study's orders as fixed strata, each with a variance of "
        "its own (Welch-Satterthwaite). They are about these orders, tasks and base model, and are not adjusted for "
        "the number of arms. ± is the standard error of one trial's score over the test items.",
        RERUN,
    ]
    sentences += _reference(study)
    cells = [interval(each) for row in board for each in _intervals(row)]
    if any(text.endswith("cut") for text in cells):
        sentences.append("Intervals marked cut reached beyond the ends of their scale, and are given up to those.")
    sentences += _tests(study, board) + caveats(board) + _standing(study, board)
    if study.quarantined:
        sentences.append(f"Damaged record files were left out: {', '.join(study.quarantined)}.")
    varying = [
        f"{kind} ({', '.join(names)})"
        for kind, names in (
            ("training", study.common(lambda record: _of_all_tasks(record.spec.training))[1]),
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
    sentences += _unlearnt(study)
    if any(trial.matrix is None for trial in study.trials):
        sentences.append("Some tasks have a metric where lower is better: their trials have no average accuracy.")
    if any(trial.record.costs.shared_by > 1 for trial in study.trials):
        sentences.append(
            "Trials were trained side by side in packs: seconds and kWh are a pack's divided by its trials, "
            "tokens a second and peak memory are those of the whole pack. So they have neither interval nor p."
        )
    return sentences


def _of_all_tasks(training: dict[str, Any]) -> dict[str, Any]:
    """Without what follows from a task's own number of steps."""
    return {key: value for key, value in training.items() if key != "by_task"}


def _reference(study: StudyResults) -> list[str]:
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


def _unlearnt(study: StudyResults) -> list[str]:
    """Tasks that this model does not learn, as far as a control tells."""
    names = [task for task in study.tasks if task in study.headroom and not study.headroom[task].learnt]
    if not names:
        return []
    return [
        f"Not learnt by this model: {', '.join(names)}. Trained on such a task alone it gains less than "
        f"{100 * LEAST_GAIN:.0f} points over the base model, or over always giving the most frequent answer. Such "
        "tasks count in every average but that of the column which says so."
    ]


def _truncated(study: StudyResults) -> str:
    """``task (3 of 500 items)`` for every task and probe where that happened."""
    columns = (group.items() for trial in study.trials for group in (trial.record.tasks, trial.record.probes))
    cut = {
        name: f"{name} ({scores.truncated} of {scores.items} items)"
        for name, scores in chain.from_iterable(columns)
        if scores.truncated
    }
    return ", ".join(cut[name] for name in sorted(cut))


def _intervals(row: BoardRow) -> list[Estimate]:
    """Those that the pages show of an arm's main outcomes."""
    means = [row.arm.estimate(metric.name) for metric in metrics.with_interval()]
    gap = row.difference.estimate if row.difference else None
    return [each for each in (*means, gap, row.block) if each]


def _tests(study: StudyResults, board: Board) -> list[str]:
    """How differences and groups are tested, as far as this board has any."""
    sentences = []
    if any(row.difference for row in board):
        sentences.append(
            "Differences are paired: same order and seed. p is that of the t statistic behind the interval, two-sided, "
            "then Holm's over the contestants; each outcome has a Holm of its own, and average accuracy is the one "
            "that was chosen beforehand. p (sign flip) is a check that assumes no distribution, not adjusted, from "
            f"{LEAST_PAIRS} pairs up."
        )
    if any(row.block for row in board):
        sentences.append(
            "Block interval: a second interval of the same difference, from the noise that all trained arms share "
            "(randomised blocks of an order and a seed). It has more degrees of freedom, holds only where the arms "
            "are equally noisy, which Bartlett's test does not reject here, and p does not come from it."
        )
    elif board.no_block and any(row.difference for row in board):
        sentences.append(f"There is no block interval: {board.no_block}.")
    if board.groups.test:
        sentences.append(
            "Contestants of one tie group cannot be told apart from its best "
            f"({TESTS[board.groups.test]}, 5 % over all pairs); group 1 is the best. A wide spread can put an arm "
            "into a better group than one with a higher mean: it has not been shown to be worse."
        )
    elif board.groups.untested and any(row.contends for row in board):
        sentences.append(f"Tie groups are not testable: {board.groups.untested}. That says nothing of a tie.")
    if any(row.detectable is not None for row in board):
        sentences.append(
            f"Detectable is the true difference to {study.called} in average accuracy that would be significant in "
            "80 % of such studies, at Holm's first step (non-central t, from the arm's own spread)."
        )
    if any(row.arm.control for row in board):
        sentences.append(
            "Controls are bounds to compare with: they win nothing, are in no tie group, and have a difference with "
            "its interval, but no p."
        )
    return sentences


def _standing(study: StudyResults, board: Sequence[BoardRow]) -> list[str]:
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
    untuned = [arm.name for arm in study.arms if arm.records and not arm.tuned]
    trained = [arm.name for arm in study.arms if arm.records and arm.trains]
    if trained and set(trained) <= set(untuned):
        sentences.append("No arm was tuned: each ran with one fixed setting, and another setting may change the order.")
    elif left := [name for name in trained if name in untuned]:
        sentences.append(f"Not tuned, while others were: {', '.join(left)}. The comparison favours the tuned arms.")
    if old := [arm.name for arm in study.arms if arm.choice and arm.choice.settings and arm.name in untuned]:
        sentences.append(f"Trained with other settings than tuning.json chose: {', '.join(old)}; run the study again.")
    if at_end := [arm.name for arm in study.arms if arm.tuned and arm.choice and arm.choice.ends]:
        sentences.append(f"Best at an end of what was tried; a wider grid may have a better one: {', '.join(at_end)}.")
    tried = {arm.method: arm.settings_tried for arm in study.arms if arm.name in trained}
    if len(set(tried.values())) > 1:
        each = ", ".join(f"{method} {count}" for method, count in sorted(tried.items()))
        sentences.append(
            f"More settings were tried of one method than of another ({each}): the best of many flatters it."
        )
    return sentences
