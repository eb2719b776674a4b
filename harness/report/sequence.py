"""What an audit records of adapters that were saved after each task of one training run."""

from __future__ import annotations

import numpy as np

from harness.report import metrics
from harness.report.evidence import AuditedSequence


def of_sequence(matrix: list[list[float]]) -> dict[str, float | None]:
    """Every metric that is declared ``audited``, of an accuracy matrix [T+1][T]; None where one has no meaning."""
    sequence = AuditedSequence(np.array(matrix))
    return {metric.name: metric.value(sequence) for metric in metrics.audited()}
