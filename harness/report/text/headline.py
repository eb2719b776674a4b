"""The answer at a glance: the best contestant, by how much, what forgets least, what it costs, how sure that is.

Nothing here is stronger than in the sentences of :mod:`harness.report.text.answer`; a number stands beside its
interval, and what was not tested is called so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.statistics import LEVEL
from harness.report import metrics
from harness.report.arms import Arm
from harness.report.estimates import certain
from harness.report.leaderboard import Board, BoardRow
from harness.report.metrics import PRIMARY
from harness.report.numbers import NOTHING, interval, joined, number, p_text, percent, plural, points
from harness.report.study import StudyResults
from harness.report.text.answer import beyond, lowest_forgetting, some, times_as_many_tokens


@dataclass(frozen=True)
class Fact:
    """A question in a word or two, its answer, and what belongs to it."""

    label: str
    value: str
    detail: str = ""


def headline(study: StudyResults, board: Board) -> list[Fact]:
    """What a reader asks first; without a ranked contestant only that there is none."""
    contestants = [row for row in board if row.contends]
    if not contestants:
        return [Fact("Best contestant", "none is ranked", "The board says why.")]
    facts = [_best(board, contestants), _against(study, contestants, board.best), _forgetting(board)]
    return [fact for fact in (*facts, _cost(study, board), _sure(study, board)) if fact]


def _best(board: Board, contestants: Sequence[BoardRow]) -> Fact:
    best = board.best
    value = certain(best[0].arm.estimate(PRIMARY))
    detail = joined(f"{percent(value.mean)} % average accuracy", interval(value))
    tie = "an exact tie; " if len(best) > 1 else ""
    detail = tie + detail + beyond(board, contestants, best)
    return Fact("Best contestant", some([row.arm.name for row in best]), detail)


def _against(study: StudyResults, contestants: Sequence[BoardRow], best: Sequence[BoardRow]) -> Fact | None:
    """The best contestant against its reference; where that is the best itself, the next one."""
    if study.reference is None:
        return None
    others = [row for row in contestants if row.difference]
    row = next((row for row in best if row in others), others[0] if others else None)
    if row is None:
        return None
    gap, of = certain(row.difference), called(row, study)
    p = row.p_holm
    sure = "not tested" if p is None else f"p {p_text(p)} after Holm, {'' if p < LEVEL else 'not '}significant"
    size = ", ".join(filter(None, (interval(gap.estimate, points), sure)))
    name = "" if row in best else f"{row.arm.name}, the best of the others: "
    return Fact(f"Against {of}", f"{points(gap.mean)} points", name + size)


def called(row: BoardRow, study: StudyResults) -> str:
    """The reference of an arm, as a label has it."""
    partner = certain(row.partner)
    return "plain LoRA" if partner is study.reference and study.called == "plain LoRA" else partner.name


def _forgetting(board: Board) -> Fact | None:
    lowest = lowest_forgetting([row for row in board if row.arm.trains and not row.arm.control])
    if not lowest:
        return None
    arm = lowest[0]
    value, metric = certain(arm.estimate("forgetting")), metrics.metric("forgetting")
    detail = joined(f"{metric.text(value.mean)} points", interval(value)) + f" at {_learnt(arm)} learning accuracy"
    partner = next((row.partner for row in board if row.partner), None)
    if partner and partner not in lowest and (theirs := partner.estimate("forgetting")):
        detail += f"; {partner.name}: {metric.text(theirs.mean)} at {_learnt(partner)}"
    tie = "exact tie; " if len(lowest) > 1 else ""
    return Fact("Lowest mean forgetting", some([each.name for each in lowest]), f"{tie}{detail}{_tested(board, arm)}")


def _tested(board: Board, arm: Arm) -> str:
    """What the test of an arm's forgetting against its reference says; empty for the reference."""
    row = next(row for row in board if row.arm is arm)
    if row.partner is None:
        return ""
    test = row.tested.get("forgetting")
    if test is None or test.p_holm is None:
        return " (difference not tested)"
    gap = joined(metrics.metric("forgetting").change(test.gap.mean), interval(test.gap.estimate, points))
    return f"; difference {gap}, p {p_text(test.p_holm)} after Holm"


def _learnt(arm: Arm) -> str:
    value = arm.estimate("learning_accuracy")
    return f"{percent(value.mean)} %" if value else NOTHING


def _cost(study: StudyResults, board: Board) -> Fact | None:
    """Tokens of training of the best contestant; of the others the range."""
    times = times_as_many_tokens(board)
    if not times:
        return None
    low, high = (number(find(times.values()), 2) for find in (min, max))
    own = next((row.arm for row in board.best if row.arm.name in times), None)
    ends = f"{low} ×" if low == high else f"{low} to {high} ×"
    spread = f"tokens of training against {study.called}; all arms {ends}"
    if own is None:
        return Fact("Costs", ends, f"tokens of training against {study.called}")
    seconds = [arm.estimate("train_seconds") for arm in (own, _partner(board, own))]
    if all(seconds):
        spread += f"; {number(certain(seconds[0]).mean / certain(seconds[1]).mean, 2)} × its seconds in these packs"
    return Fact(f"Costs of {own.name}", f"{number(times[own.name], 2)} ×", spread)


def _partner(board: Board, arm: Arm) -> Arm:
    return certain(next(row.partner for row in board if row.arm is arm))


def _sure(study: StudyResults, board: Board) -> Fact | None:
    detectable = [row.detectable for row in board if row.detectable is not None]
    pairs = max((certain(row.difference).pairs for row in board if row.p is not None), default=0)
    if not detectable:
        return None
    low, high = number(min(detectable), 1, 100), number(max(detectable), 1, 100)
    size = f"{low} points" if low == high else f"{low} to {high} points"
    found = f"the least true difference to {study.called} that {plural(pairs, 'pair')} find with 80 % power"
    return Fact("Detectable", size, found)
