"""The leaderboard: one row per arm, contestants first and ranked where the evidence is complete, controls below them.

Each arm is compared with its reference in pairs.  A control is a bound, not a contestant: it is in no tie group and in
no correction over the arms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from harness.analysis.statistics import (
    Estimate,
    Groups,
    Paired,
    Residual,
    block_residual,
    holm,
    inside,
    minimum_detectable_effect,
    paired_differences,
    refusal,
    tie_groups,
    with_ends,
)
from harness.report import metrics
from harness.report.arms import Arm, same_matrices
from harness.report.metrics import PRIMARY
from harness.report.study import StudyResults


@dataclass(frozen=True)
class Tested:
    """The paired difference of an arm to its reference in one outcome, and its p after Holm over the contestants."""

    gap: Paired
    p_holm: float | None  #: None where nothing is tested: no t, a control, or an arm or reference that isn't ranked


@dataclass(frozen=True)
class BoardRow:
    """An arm on the board, compared with its reference in the primary outcome and the secondary ones."""

    arm: Arm
    tested: dict[str, Tested]
    group: int | None  #: of contestants that can't be told apart from its best; None for an arm that has none
    detectable: float | None  #: minimum detectable effect on the primary outcome
    why_not: str
    partner: Arm | None = None  #: whom it is compared with
    block: Estimate | None = None  #: the difference with the interval from the noise that all trained arms share

    @property
    def ranked(self) -> bool:
        return not self.why_not

    @property
    def contends(self) -> bool:
        """Whether it can win: ranked, and no control."""
        return self.ranked and not self.arm.control

    @property
    def difference(self) -> Paired | None:
        return self.tested[PRIMARY].gap if PRIMARY in self.tested else None

    @property
    def p(self) -> float | None:
        """Of the difference in the primary outcome; None where that is not tested."""
        return self.tested[PRIMARY].gap.p if self.p_holm is not None else None

    @property
    def p_holm(self) -> float | None:
        return self.tested[PRIMARY].p_holm if PRIMARY in self.tested else None

    @property
    def untestable(self) -> bool:
        """Whether it would be tested, had its pairs a spread."""
        return self.contends and self.difference is not None and self.difference.p is None


@dataclass(frozen=True)
class Board(Sequence[BoardRow]):
    """Rows in the order of the board, with what holds for all of them."""

    rows: tuple[BoardRow, ...]
    groups: Groups
    no_block: str  #: why there is no interval from the noise that all trained arms share; empty where there is one

    @overload
    def __getitem__(self, index: int) -> BoardRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[BoardRow, ...]: ...
    def __getitem__(self, index: int | slice) -> BoardRow | tuple[BoardRow, ...]:
        return self.rows[index]

    def __iter__(self) -> Iterator[BoardRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def best(self) -> list[BoardRow]:
        """The contestants with the highest mean: several where they tie exactly."""
        contestants = [row for row in self.rows if row.contends]
        return [row for row in contestants if _mean(row.arm) == _mean(contestants[0].arm)]


def rows(study: StudyResults) -> Board:
    """The board: ranked contestants by average accuracy, other contestants, then the controls; ties by name."""
    why = {arm.name: arm.why_not_ranked() for arm in study.arms}
    tested = _tests(study, why)
    ranked = [arm for arm in study.arms if not why[arm.name]]
    trained = [arm for arm in ranked if arm.trains]
    alike, no_block = _shared_noise(trained)
    groups = tie_groups({arm.name: arm.values(PRIMARY) for arm in ranked if not arm.control}, alike)
    count = sum(test.p_holm is not None for test in tested[PRIMARY].values())
    table = []
    for arm in study.arms:
        own = {metric: tests[arm.name] for metric, tests in tested.items() if arm.name in tests}
        gap, partner, detectable, block = own.get(PRIMARY), study.partner(arm), None, None
        if gap and gap.p_holm is not None:
            detectable = minimum_detectable_effect(gap.gap, count)
        if gap and alike and not no_block and partner in trained and arm in trained:
            ends = with_ends(gap.gap.mean, float(alike.half_widths()), gap.gap.pairs)
            block = inside(ends, metrics.metric(PRIMARY).apart)
        table.append(BoardRow(arm, own, groups.numbers.get(arm.name), detectable, why[arm.name], partner, block))
    return Board(tuple(sorted(table, key=_rank)), groups, no_block)


def _tests(study: StudyResults, why: Mapping[str, str]) -> dict[str, dict[str, Tested]]:
    """Every arm against its reference, by outcome and arm.

    Only complete arms are tested: the pairs that survived a divergence say nothing about those that did not.  Intruders
    are compared between arms that adapt the same matrices: other matrices have other counts without any method.
    """
    pairs = [(arm, partner) for arm in study.arms if (partner := study.partner(arm))]
    outcomes = [metrics.metric(PRIMARY), *metrics.secondary()]
    gaps = paired_differences({
        (metric.name, arm.name): (values, partner.values(metric.name), metric.apart)
        for metric in outcomes
        for arm, partner in pairs
        if (values := arm.values(metric.name)) and (not metric.of_matrices or same_matrices(arm, partner))
    })  # fmt: skip
    contestants = [arm.name for arm, partner in pairs if not (arm.control or why[arm.name] or why[partner.name])]
    tests: dict[str, dict[str, Tested]] = {}
    for metric in outcomes:
        own = {arm: gap for (name, arm), gap in gaps.items() if name == metric.name}
        ready = [arm for arm in contestants if arm in own and own[arm].p is not None]
        adjusted = dict(zip(ready, holm([own[arm].p for arm in ready]), strict=True))
        tests[metric.name] = {arm: Tested(gap, adjusted.get(arm)) for arm, gap in own.items()}
    return tests


def _shared_noise(arms: Sequence[Arm]) -> tuple[Residual | None, str]:
    """The residual of the blocks over all trained arms, and why it gives no interval; empty where it does."""
    trained = [arm.values(PRIMARY) for arm in arms]
    keys = sorted(trained[0]) if trained else []
    if any(values.keys() != set(keys) for values in trained):
        return None, "the trained arms ran different orders or seeds"
    strata = [key[0] for key in keys]
    if why := refusal(len(trained), strata):
        return None, why
    found = block_residual(np.array([[values[key] for values in trained] for key in keys]), strata)
    if not found.usable:
        return found, "the trained arms are not equally noisy (Bartlett's test, 5 %)"
    return found, ""


def _mean(arm: Arm) -> float | None:
    """Rounded, so that a difference in the last bit of a sum doesn't decide over the name."""
    outcome = arm.estimate(PRIMARY)
    return round(outcome.mean, 12) if outcome else None


def _rank(row: BoardRow) -> tuple[bool, bool, float, str]:
    mean = _mean(row.arm)
    return row.arm.control, not row.ranked, float("inf") if mean is None else -mean, row.arm.name


def trial_count(arm: Arm) -> str:
    return f"{len(arm.trials)}/{arm.expected}"
