"""Two arms side by side: the paired answer in words and numbers, also across two studies of one stack."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.statistics import LEVEL, Paired, minimum_detectable_effect
from harness.errors import InputError, unknown_name
from harness.report import metrics
from harness.report.arms import Arm, same_matrices
from harness.report.estimates import estimate
from harness.report.gaps import gap_of
from harness.report.leaderboard import trial_count
from harness.report.metrics import PRIMARY
from harness.report.numbers import NOT_TESTABLE, NOTHING, interval, joined, listed, number, p_text, plural, points
from harness.report.study import KINDS, StudyResults, find_mixtures
from harness.report.text.notes import RERUN

#: The scoring settings that decide which items are asked and how.
ITEMS = ("split", "items", "probe_items", "max_length", "num_fewshot", "chat_template")


@dataclass(frozen=True)
class Comparison:
    """``gaps`` are the first arm minus the second, by metric; ``untested`` says why there is no p, else it is empty."""

    first: Arm
    second: Arm
    gaps: dict[str, Paired]
    untested: str
    mixtures: list[str]
    studies: tuple[str, str] | None = None  #: those of the two arms, where they are two

    @property
    def names(self) -> tuple[str, str]:
        """What the arms are called here: of two studies also with the study, as arms of both may have one name."""
        first, second = self.first.name, self.second.name
        return (f"{first} of {self.studies[0]}", f"{second} of {self.studies[1]}") if self.studies else (first, second)

    def means(self, metric: str) -> tuple[float, float]:
        """Of the trials that have a partner, the orders weighed as in the difference, which is the first - the second.

        A mean over all trials would stand beside a difference of others where one arm has seeds that the other lacks.
        """
        first, second = self.first.values(metric), self.second.values(metric)
        shared = first.keys() & second.keys()
        return estimate({key: first[key] for key in shared}).mean, estimate({key: second[key] for key in shared}).mean


def compare(
    one: StudyResults, other: StudyResults, first: str, second: str, *, allow_mixed: bool = False
) -> Comparison:
    """Arm ``first`` of ``one`` minus arm ``second`` of ``other`` (which may be the same study).

    Raises ``InputError`` for an arm that is not there or has no finished trial, for nothing to pair, and for trials of
    these two that may not be compared unless ``allow_mixed``; other arms of the studies don't matter.
    """
    arms = _arm(one, first), _arm(other, second)
    where = ", ".join(dict.fromkeys((one.name, other.name)))
    mixed = _mixtures(arms) if one is other else [*_mixtures_across(arms), *_seeds_and_items(arms)]
    if mixed and not allow_mixed:
        raise InputError(
            "these arms may not be compared: " + "; ".join(mixed),
            where=where,
            remedy="run both studies on one stack and on the same items, or ask for it (--allow-mixed)",
        )
    fair = [each.name for each in metrics.compared() if not each.of_matrices or same_matrices(*arms)]
    gaps = {name: gap for name in fair if (gap := gap_of(*arms, name))}
    if without := [arm.name for arm in arms if not arm.values(PRIMARY)]:
        raise InputError(
            f"no average accuracy of {listed(list(dict.fromkeys(without)))}: for one of its tasks lower is better",
            where=where,
            remedy="compare studies whose tasks are all better the higher; the report has the score of every task",
        )
    if PRIMARY not in gaps:
        raise InputError(
            f"'{first}' and '{second}' share no order and seed with an average accuracy",
            where=where,
            remedy="compare arms that ran the same orders and seeds: lorabench status STUDY",
        )
    reasons = [f"{arm.name} is not ranked ({why})" for arm in arms if (why := arm.why_not_ranked())]
    return Comparison(*arms, gaps, "; ".join(reasons), mixed)


def _arm(study: StudyResults, name: str) -> Arm:
    by_name = {arm.name: arm for arm in study.arms}
    if name not in by_name:
        raise unknown_name("arm", name, by_name, where=study.name)
    if not by_name[name].trials:
        raise InputError(f"'{name}' has no finished trial", where=study.name, remedy="lorabench status says why")
    return by_name[name]


def _mixtures(arms: Sequence[Arm], kinds: Collection[str] = KINDS) -> list[str]:
    return find_mixtures([trial.record for arm in arms for trial in arm.trials], kinds)


def _mixtures_across(arms: Sequence[Arm]) -> list[str]:
    """Within either arm, and between them: arms of two studies may have the same name and different settings."""
    return list(dict.fromkeys([*_mixtures(arms[:1]), *_mixtures(arms[1:]), *_mixtures(arms, ("task", "order"))]))


def _seeds_and_items(arms: Sequence[Arm]) -> list[str]:
    """What two studies must share for their seeds to mean the same data and their scores the same questions."""
    differences = []
    specs = [[trial.record.spec for trial in arm.trials] for arm in arms]
    for what, values in (
        ("the root seed", lambda spec: spec.training.get("root_seed")),
        *((f"scoring.{key}", lambda spec, key=key: spec.scoring.get(key)) for key in ITEMS),
    ):
        seen = [sorted({json.dumps(values(spec), sort_keys=True) for spec in arm_specs}) for arm_specs in specs]
        if seen[0] != seen[1]:
            differences.append(f"{what} differs ({', '.join(seen[0])} / {', '.join(seen[1])})")
    return differences


def _budgets(comparison: Comparison) -> list[str]:
    """What two studies train and ask otherwise: a difference of their arms may be one of these."""
    specs = [arm.trials[0].record.spec for arm in (comparison.first, comparison.second)]
    settings = [{**spec.training, "probes": list(spec.probes)} for spec in specs]
    differing = [key for key in settings[0] if settings[0][key] != settings[1].get(key)]
    shown = [f"{key} ({' / '.join(_plain(each.get(key)) for each in settings)})" for key in differing]
    return [f"The studies themselves differ in {listed(shown)}."] if comparison.studies and shown else []


def _plain(value: object) -> str:
    """As a study's file has it."""
    return json.dumps(value).replace('"', "")


def sentences(comparison: Comparison) -> list[str]:
    """The answer in words, never stronger than the test."""
    gap, names = comparison.gaps[PRIMARY], " minus ".join(comparison.names)
    size = joined(f"{points(gap.mean)} points", interval(gap.estimate, points))
    text = f"{names} in average accuracy: {size} over {plural(gap.pairs, 'pair')}"
    lines, ends = [], [*_budgets(comparison), RERUN]
    if comparison.mixtures:
        lines.append(f"MIXED: {'; '.join(comparison.mixtures)}. The difference may come from that.")
    if comparison.untested:
        lines.append(f"{text}; not tested: {comparison.untested}.")
        return [*lines, *ends]
    if gap.p is None:
        why = "an order has one pair" if gap.error is None else "the pairs show no spread"
        lines.append(f"{text}; {NOT_TESTABLE}: {why}.")
        return [*lines, *ends]
    verdict = "significant" if gap.p < LEVEL else "an exact tie, not significant" if gap.tie else "not significant"
    check = "" if gap.p_sign_flip is None else f"; a sign-flip test has p {_equals(gap.p_sign_flip)}"
    lines.append(f"{text}; {verdict} at 5 % (two-sided paired t test, p {_equals(gap.p)}{check}).")
    effect = minimum_detectable_effect(gap)
    if effect is not None:
        lines.append(f"A true difference of {number(effect, 1, 100)} points would be found in 80 % of such studies.")
    lines.append("p is for this one comparison, not adjusted for others; the other outcomes are secondary.")
    return [*lines, *ends]


def _equals(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """(columns, rows): every metric that both arms have, each arm's mean over the pairs."""
    arms = zip(comparison.names, (comparison.first, comparison.second), strict=True)
    columns = ["", *(f"{name} ({trial_count(arm)})" for name, arm in arms), "difference [95 % CI]", "pairs", "p"]
    rows = []
    for name, gap in comparison.gaps.items():
        metric = metrics.metric(name)
        values = [metric.text(mean) for mean in comparison.means(name)]
        ends = interval(gap.estimate, metric.change)
        p = NOTHING if comparison.untested else p_text(gap.p)
        rows.append([metric.heading, *values, f"{metric.change(gap.mean)} {ends}".strip(), str(gap.pairs), p])
    return columns, rows


def as_data(comparison: Comparison) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "first": comparison.first.name,
        "second": comparison.second.name,
        "studies": comparison.studies,
        "mixed": comparison.mixtures,
        "not_tested": comparison.untested or None,
        "answer": sentences(comparison),
        "differences": {
            name: {**dict(zip(("first_mean", "second_mean"), comparison.means(name), strict=True)),
                   "mean": gap.mean, "ci_low": gap.low, "ci_high": gap.high, "pairs": gap.pairs,
                   "p": None if comparison.untested else gap.p,
                   "p_sign_flip": None if comparison.untested else gap.p_sign_flip}
            for name, gap in comparison.gaps.items()
        },
    }  # fmt: skip
