"""A finished trial with its metrics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.report import metrics
from harness.report.evidence import Evidence, OnOneTask, Yardstick
from harness.store.records import TrialRecord


@dataclass(frozen=True)
class Trial:
    """A finished trial: its record, its (T+1) x T matrix (None where a task has no "higher is better") and metrics."""

    record: TrialRecord
    matrix: np.ndarray | None
    metrics: dict[str, float | None]

    @cached_property  # each metric of an arm has it, so one copy is kept
    def key(self) -> tuple[str, int]:
        """What pairs it with a trial of another arm: order (the stratum) and seed."""
        return self.record.spec.order, self.record.spec.seed


def measure(
    record: TrialRecord, yardstick: Yardstick, on_one_task: OnOneTask, unlearnt: frozenset[str] = frozenset()
) -> Trial:
    """All metrics of one finished trial, in the order of their declaration."""
    evidence = Evidence(record, yardstick, on_one_task, unlearnt)
    last = record.intruders[-1] if record.intruders else None
    values: dict[str, float | None] = {}
    for metric in metrics.METRICS:
        if metric.of == "trial":
            values[metric.name] = metric.value(evidence)
        elif metric.of == "probe":
            values |= {metric.named(name): metric.value(scores) for name, scores in sorted(record.probes.items())}
        elif metric.of == "weights":
            value = metric.value(last) if last else None
            values[metric.name] = None if value is None else float(value)
        elif metric.of == "costs":
            values[metric.name] = metric.value(record.costs)
    return Trial(record, evidence.matrix, values)
