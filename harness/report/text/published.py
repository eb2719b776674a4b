"""A study's arms and, below them, what others reported on the same benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.leaderboard import Row
from harness.report.metrics import PRIMARY
from harness.report.numbers import number, percent, points
from harness.report.study import Study

COLUMNS = ["Method", "Average accuracy, %", "BWT, points", "Model", "Protocol", "Source"]
CAPTION = (
    "Published numbers come from other models and protocols (rates, numbers of examples, prompts, splits): they are "
    "not directly comparable with this study's, and show the range that is known."
)


def rows(study: Study, board: Sequence[Row]) -> list[list[str]]:
    """The cells of the table; none where the study names no published numbers."""
    if not study.published:
        return []
    found = []
    for arm in (row.arm for row in board if row.arm.trials):
        accuracy, transfer = arm.estimate(PRIMARY), arm.estimate("backward_transfer")
        models = ", ".join(dict.fromkeys(trial.record.spec.model for trial in arm.trials))
        own = [percent(accuracy.mean if accuracy else None), points(transfer.mean if transfer else None)]
        found.append([arm.name, *own, models, "see Settings", "this study"])
    for line in study.published:
        score = [number(line.accuracy), number(line.bwt, sign=True)]
        found.append([line.method, *score, line.model, line.protocol, line.source])
    return found
