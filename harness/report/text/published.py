"""A study's arms and, below them, what others reported on the same benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.leaderboard import BoardRow
from harness.report.metrics import PRIMARY
from harness.report.numbers import number, percent, points
from harness.report.study import StudyResults

COLUMNS = ["Method", "Average accuracy, %", "BWT, points", "Model", "Protocol", "Source"]
CAPTION = (
    "Published numbers come from other models and protocols (rates, numbers of examples, prompts, splits): they are "
    "not directly comparable with this study's, and show the range that is known."
)


def rows(study: StudyResults, board: Sequence[BoardRow]) -> list[list[str]]:
    """The cells of the table; empty where the study names no published numbers."""
    if not study.published:
        return []
    cells = []
    for arm in (row.arm for row in board if row.arm.trials):
        accuracy, transfer = arm.estimate(PRIMARY), arm.estimate("backward_transfer")
        models = ", ".join(dict.fromkeys(trial.record.spec.model for trial in arm.trials))
        score = [percent(accuracy.mean if accuracy else None), points(transfer.mean if transfer else None)]
        cells.append([arm.name, *score, models, "see Settings", "this study"])
    for line in study.published:
        score = [number(line.accuracy), number(line.bwt, sign=True)]
        cells.append([line.method, *score, line.model, line.protocol, line.source])
    return cells
