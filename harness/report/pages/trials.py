"""The page's table of trials: one line a record, for the script to filter."""

from __future__ import annotations

from typing import Any

from harness.report import metrics
from harness.report.metrics import PRIMARY
from harness.report.study import StudyResults
from harness.store.records import TrialRecord

#: Digits of a fingerprint and of a commit that name them: every verb takes as many of a fingerprint.
DIGITS, COMMIT = 12, 10
#: What a line begins with; the script filters by the first ones.
FRONT = ("Arm", "Order", "Seed", "Trial", "Status")


def trial_list(study: StudyResults) -> dict[str, Any]:
    """Headings and one line a trial, in the order of arm, order and seed: its scores, costs and commit as text."""
    shown = [metrics.metric(PRIMARY), *metrics.in_table("main"), metrics.metric("train_seconds")]
    measured = {id(trial.record): trial.metrics for trial in study.trials}
    rows = []
    for record in study.records:
        values = measured.get(id(record), {})
        spec = record.spec
        scores = [metric.text(values.get(metric.name)) for metric in shown]
        front = [spec.arm, spec.order, str(spec.seed), record.fingerprint[:DIGITS], record.status]
        rows.append([*front, *scores, commit_of(record)])
    return {"columns": [*FRONT, *(metric.heading for metric in shown), "Commit"], "rows": rows}


def commit_of(record: TrialRecord) -> str:
    """Which commit it ran from, and whether with changes; a dash where that is not known."""
    if record.commit is None:
        return "–"
    return record.commit[:COMMIT] + (" + changes" if record.clean is False else "")
