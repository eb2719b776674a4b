"""Which scores of an audit share an axis."""

from __future__ import annotations

import pytest

from harness.report.figures import audit
from harness.store.audit import AuditScore, AuditTask

pytestmark = pytest.mark.drawn


def task(name: str, metric: str, better: bool) -> AuditTask:
    return AuditTask(name=name, probe=True, metric=metric, higher_is_better=better, items=8, chance=None,
                     digest=name, truncated=0, base=AuditScore(score=0.5, stderr=None, correct=None))  # fmt: skip


def test_units_never_share_an_axis():
    tasks = [task("text", "bits_per_byte", False), task("quiz", "acc", True), task("sure", "brier_score", False),
             task("sums", "exact_match", True), task("code", "bits_per_byte", False)]  # fmt: skip
    panels = [[each.name for each in panel] for panel in audit._panels(tasks)]
    assert panels == [["quiz", "sums"], ["text", "code"], ["sure"]]
