"""The leaderboard: one row per arm, ranked where the evidence is complete, each compared with its reference."""

from __future__ import annotations

from dataclasses import dataclass

from harness.analysis.statistics import Paired, holm, minimum_detectable_effect, paired_differences, tie_groups
from harness.report import metrics
from harness.report.arms import Arm, same_matrices
from harness.report.metric import Metric
from harness.report.metrics import PRIMARY
from harness.report.study import Study


@dataclass(frozen=True)
class Tested:
    """The paired difference of an arm to its reference in one outcome, and its p after Holm over the arms."""

    gap: Paired
    p_holm: float | None  #: None where the arm, or its reference, is not ranked

    @property
    def p(self) -> float | None:
        return self.gap.p if self.p_holm is not None else None


@dataclass(frozen=True)
class Row:
    """An arm on the board, compared with its reference in the primary outcome and the secondary ones."""

    arm: Arm
    tested: dict[str, Tested]
    group: int | None  #: arms of one group can't be told apart from its best; None for an arm that is not ranked
    detectable: float | None  #: minimum detectable effect on the primary outcome
    why_not: str
    partner: Arm | None = None  #: whom it is compared with

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
    tested = {each.name: _tests(study, each, why) for each in (metrics.metric(PRIMARY), *metrics.secondary())}
    groups = tie_groups({arm.name: arm.values(PRIMARY) for arm in study.arms if not why[arm.name]})
    count = sum(test.p is not None for test in tested[PRIMARY].values())
    table = []
    for arm in study.arms:
        arm_tests = {metric: tests[arm.name] for metric, tests in tested.items() if arm.name in tests}
        detectable = None
        if PRIMARY in arm_tests and arm_tests[PRIMARY].p is not None:
            detectable = minimum_detectable_effect(arm_tests[PRIMARY].gap, count)
        table.append(Row(arm, arm_tests, groups.get(arm.name), detectable, why[arm.name], study.partner(arm)))
    return sorted(table, key=_rank)


def _tests(study: Study, metric: Metric, why: dict[str, str]) -> dict[str, Tested]:
    """Every arm against its reference.

    Only complete arms are tested: the pairs that survived a divergence say nothing about those that did not.  Intruders
    are compared between arms that adapt the same matrices: other matrices have other counts without any method.
    """
    gaps: dict[str, Paired] = {}
    for reference in study.partners:
        others = [arm for arm in study.arms if study.partner(arm) is reference]
        if metric.of_matrices:
            others = [arm for arm in others if same_matrices(arm, reference)]
        arms = {arm.name: values for arm in others if (values := arm.values(metric.name))}
        gaps |= paired_differences(arms, reference.values(metric.name))
    ranked = [
        arm.name for arm in study.arms if (partner := study.partner(arm)) and not (why[arm.name] or why[partner.name])
    ]
    ready = [name for name in ranked if name in gaps and gaps[name].p is not None]
    adjusted = dict(zip(ready, holm([gaps[name].p for name in ready]), strict=True))
    return {name: Tested(gap, adjusted.get(name)) for name, gap in gaps.items()}


def _rank(row: Row) -> tuple[bool, float, str]:
    outcome = row.arm.estimate(PRIMARY)
    # Rounded, so that a difference in the last bit of a sum doesn't decide over the name.
    return not row.ranked, -round(outcome.mean, 12) if outcome else float("inf"), row.arm.name


def trial_count(arm: Arm) -> str:
    return f"{len(arm.trials)}/{arm.expected}"
