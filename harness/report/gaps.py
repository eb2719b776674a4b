"""The paired difference of two arms in one metric."""

from __future__ import annotations

from dataclasses import replace

from harness.analysis.statistics import Paired, paired_difference
from harness.report import metrics
from harness.report.arms import Arm


def gap_of(first: Arm, second: Arm, name: str) -> Paired | None:
    """The paired difference in a metric; without interval and p where packs share it."""
    metric = metrics.metric(name)
    gap = paired_difference(first.values(name), second.values(name), metric.apart)
    if gap and metric.shared and (first.packed or second.packed):
        return replace(gap, low=None, high=None, p=None, p_sign_flip=None, error=None)
    return gap
