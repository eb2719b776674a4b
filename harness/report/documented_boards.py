"""Boards of committed reference results, for results/reference/README.md: read from their leaderboard.csv."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from harness.report.metric import Metric
from harness.report.metrics import metric
from harness.report.numbers import NOTHING

REFERENCES = Path("results", "reference")
#: Metrics of the table that stand there by themselves: alone, or with their difference to the reference.
SHOWN = ("learning_accuracy", "forgetting", "plain_text_delta", "intruder_distance")
SIGNIFICANT = 0.05

Row = Mapping[str, str]


def board(study: str) -> str:
    """The board of one reference study in Markdown, in the order of its leaderboard."""
    primary = metric("average_accuracy")
    change = f"Against `lora`, {primary.unit_of_difference} [95 % CI]"
    headings = ["Method", "Trials", f"{primary.heading} [95 % CI]", change]
    for shown in map(metric, SHOWN):
        headings += [f"{shown.heading}", *(["… against `lora` [95 % CI]"] if shown.name == "forgetting" else [])]
    lines = [_line(headings), "|---|" + "--:|" * (len(headings) - 1)]
    with (REFERENCES / study / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        lines += [_line(_cells(row, primary)) for row in csv.DictReader(file)]
    return "".join(f"{line}\n" for line in lines)


def _cells(row: Row, primary: Metric) -> list[str]:
    cells = [f"`{row['method']}`{' (control)' if row['control'] == 'yes' else ''}", row["trials"]]
    cells += [_with_interval(row, primary.name, primary), _difference(row, "", primary)]
    for shown in map(metric, SHOWN):
        significant = _below(row.get(f"{shown.name}_p_holm"))
        value = shown.text(_number(row[shown.name]))
        if shown.name == "forgetting":
            cells += [value, _difference(row, f"{shown.name}_", shown)]
        else:
            cells.append(f"**{value}**" if significant else value)
    return cells


def _with_interval(row: Row, column: str, shown: Metric) -> str:
    low, high = (_number(row[f"{column}_ci_{end}"]) for end in ("low", "high"))
    text = shown.text(_number(row[column]))
    return text if low is None or high is None else f"{text} [{shown.text(low)}, {shown.text(high)}]"


def _difference(row: Row, outcome: str, shown: Metric) -> str:
    """Of a primary or secondary outcome, bold where it is significant; a dash where there is none."""
    column = f"{outcome}difference_to_reference"
    if (value := _number(row[column])) is None:
        return NOTHING
    low, high = (_number(row[f"{column}_ci_{end}"]) for end in ("low", "high"))
    text = f"{shown.change(value)} [{shown.change(low)}, {shown.change(high)}]"
    return f"**{text}**" if _below(row[f"{outcome}p_holm"]) else text


def _below(p: str | None) -> bool:
    return bool(p) and float(p) < SIGNIFICANT


def _number(text: str) -> float | None:
    return float(text) if text else None


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
