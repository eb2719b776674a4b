"""Arms: the trials of one method with one setting, what they have in common, and what they train with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.analysis.statistics import LEAST_SEEDS, Estimate
from harness.report import metrics
from harness.report.estimates import estimate
from harness.report.metric import Metric
from harness.report.trial import Trial
from harness.store.records import Facts, TrialRecord
from harness.store.tuning import Choice

#: Columns of the training settings that may differ from arm to arm, and what they are (for results/README.md).
ADAPTER = {
    "rank": "of the arm's adapter: the study's, or its own (`spec.training.adapter` of a record); none where nothing "
    "is trained or what is trained has no rank",
    "alpha": "the same",
    "targets": "the same: which projections are adapted",
    "examples": "training examples of each task: the study's, or the arm's own; none where nothing is trained",
    "between_tasks": "`continue` or `reinit`, as the arm was asked; empty where the method decides that by itself",
}


@dataclass
class Arm:
    """One row of the board: every trial of one method with one setting."""

    name: str
    method: str
    setting: str
    expected: int
    choice: Choice | None = None  #: of `tuning.json` for this arm, where that is there now
    settings_tried: int = 1  #: of the method: an arm counts as one, a tuned arm as all that `tune` tried
    trials: list[Trial] = field(default_factory=list)
    unfinished: list[TrialRecord] = field(default_factory=list)
    _known: dict[str, dict[tuple[str, int], float]] = field(default_factory=dict, repr=False, compare=False)
    _estimates: dict[str, Estimate | None] = field(default_factory=dict, repr=False, compare=False)

    def count(self, status: str) -> int:
        return sum(record.status == status for record in self.unfinished)

    @property
    def records(self) -> list[TrialRecord]:
        """The record of every trial that has one, finished trials first."""
        return [*(trial.record for trial in self.trials), *self.unfinished]

    @property
    def facts(self) -> Facts | None:
        """What kind of arm it is; None before it has a record."""
        return self.records[0].facts if self.records else None

    @property
    def tuned(self) -> bool:
        """Whether its trials have the settings that were chosen for it; what a record says of itself may be old."""
        records = self.records
        return self.choice is not None and bool(records) and all(self.choice.made(record.spec) for record in records)

    @property
    def trains(self) -> bool:
        return self.facts is None or self.facts.trains

    @property
    def sequential(self) -> bool:
        return self.facts is None or self.facts.sequential

    @property
    def control(self) -> bool:
        """Whether it is there to compare with: a bound or a reference, which wins nothing."""
        return self.facts is not None and self.facts.control

    @property
    def missing(self) -> int:
        return max(0, self.expected - len(self.trials) - len(self.unfinished))

    @property
    def seeds(self) -> int:
        return len({trial.record.spec.seed for trial in self.trials})

    @property
    def complete(self) -> bool:
        """Whether every expected trial finished; a mean over survivors would flatter the arm."""
        return bool(self.trials) and not self.unfinished and not self.missing

    def why_not_ranked(self) -> str:
        """Empty for a ranked arm."""
        reasons = [f"{n} {word}" for word, n in self.failures().items() if n]
        if self.trials and self.seeds < LEAST_SEEDS:
            reasons.append(f"provisional: {self.seeds} seed{'s' if self.seeds > 1 else ''}")
        if self.trials and self.estimate(metrics.PRIMARY) is None:
            reasons.append("no average accuracy")
        return ", ".join(reasons) or ("" if self.trials else "no trials")

    @property
    def packed(self) -> bool:
        """Whether trials were trained side by side, so that they share what a pack cost."""
        return any(trial.record.costs.shared_by > 1 for trial in self.trials)

    def failures(self) -> dict[str, int]:
        failed = len(self.unfinished) - self.count("diverged")
        return {"diverged": self.count("diverged"), "failed": failed, "missing": self.missing}

    def values(self, metric: str) -> dict[tuple[str, int], float]:
        """The metric of every finished trial; empty unless all of them have it (a mean over some is another metric)."""
        if metric not in self._known:
            values = {trial.key: trial.metrics.get(metric) for trial in self.trials}
            known = {key: value for key, value in values.items() if value is not None}
            self._known[metric] = known if len(known) == len(values) else {}
        return self._known[metric]

    def estimate(self, metric: str) -> Estimate | None:
        """Mean and 95 % interval over trials, orders as strata; without an interval where packs share the metric."""
        if metric not in self._estimates:
            self._estimates[metric] = self._estimated(metric)
        return self._estimates[metric]

    def _estimated(self, metric: str) -> Estimate | None:
        values = self.values(metric)
        if not values:
            return None
        declared = metrics.declared(metric)
        found = estimate(values, declared.ends if declared else (None, None))
        return replace(found, low=None, high=None) if declared and declared.shared and self.packed else found

    def mean(self, metric: Metric) -> float | None:
        """Mean over the trials; of a metric of arms, its value."""
        if metric.of == "arm":
            return metric.value(self)
        value = self.estimate(metric.name)
        return value.mean if value else None


def adapter_of(record: TrialRecord) -> dict[str, Any]:
    """The values of :data:`ADAPTER` of a trial; those that do not apply to it are left out."""
    facts, training = record.facts, record.spec.training
    if not facts.trains:
        return {}
    adapter = {"targets": " ".join(training.get("adapter", {}).get("targets", ())) or None}
    if facts.has_rank:
        adapter |= {key: training.get("adapter", {}).get(key) for key in ("rank", "alpha")}
    adapter["examples"] = training.get("examples")
    if not facts.chooses_between:
        adapter["between_tasks"] = training.get("between_tasks")
    return {key: adapter[key] for key in ADAPTER if adapter.get(key) is not None}


def adapters_differ(arms: Sequence[Arm]) -> bool:
    """Whether the arms that have one of :data:`ADAPTER` differ in it."""
    adapters = [adapter_of(arm.records[0]) for arm in arms if arm.records]
    return any(len({adapter.get(key) for adapter in adapters} - {None}) > 1 for key in ADAPTER)


def same_matrices(one: Arm, other: Arm) -> bool:
    """Whether intruders of both were counted in the same matrices; an arm that adapts none matches every other."""
    records = (arm.records[0] for arm in (one, other) if arm.records)
    return len({adapter_of(record).get("targets") for record in records} - {None}) < 2
