"""report.html and report.md: one set of tables and sentences, two templates, and what the page's script works on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.analysis.statistics import Estimate
from harness.errors import clipped
from harness.report import metrics
from harness.report.arms import Arm
from harness.report.estimates import certain
from harness.report.figures.accuracy_matrix import mean_matrix
from harness.report.figures.parts import FEW
from harness.report.figures.registry import drawn_looks, figures_of
from harness.report.figures.style import GRID
from harness.report.leaderboard import Board, BoardRow
from harness.report.metrics import PRIMARY
from harness.report.numbers import listed
from harness.report.pages.render import write_pair
from harness.report.pages.reproduce import reproduction
from harness.report.pages.trials import trial_list
from harness.report.study import StudyResults, called
from harness.report.text.answer import WILL_CHANGE, answer, halfway, scope
from harness.report.text.board import CONTROLS, Column, columns, leaderboard_tables
from harness.report.text.headline import headline
from harness.report.text.mitigation import cause_tables
from harness.report.text.notes import notes
from harness.report.text.parameters import parameters
from harness.report.text.table import Table, settings
from harness.report.text.tables import tables

#: The most failures that are shown with their traceback; more would say nothing new.
FAILURES = 40
#: Characters of a failure's message or traceback; the record has all of it.
LONGEST = 10_000


def write_pages(study: StudyResults, board: Board, folder: Path, tries: Table | None) -> list[Path]:
    """Write report.md and report.html, with the tuning tries, if any; the figures must be in ``folder/figures``."""
    context: dict[str, Any] = _context(study, board) | {"tuning": tries}
    context["tables"] += cause_tables(study, folder)
    captions = {plot.name: (plot.title, plot.caption) for plot in figures_of(study)}
    data = _matrices(study, board) | {"trials": trial_list(study)}
    return write_pair("report", context, captions, folder, data)


def _context(study: StudyResults, board: Board) -> dict[str, Any]:
    common, _ = study.common(lambda record: {"model": record.spec.model, "weights": record.spec.model_digest})
    stack, mixed = study.common(lambda record: record.stack)
    training, _ = study.common(lambda record: record.spec.training)
    scoring, _ = study.common(lambda record: record.spec.scoring)
    names = list(dict.fromkeys(record.study for record in study.records))
    colors, own = _colors(study, board), columns(board)
    lower = dict.fromkeys(m.kind or m.name_in_sentence for m in metrics.in_table("main") if m.better == "lower")
    return {
        "study": study.name,
        "reproduce": [reproduction(study, board, name) for name in names],
        "model": common.get("model", "several models"),
        "scope": scope(study),
        "headline": headline(study, board),
        "summary": answer(study, board),
        "notes": notes(study, board),
        "mixtures": study.mixtures,
        "halfway": halfway(study),
        "will_change": WILL_CHANGE,
        "leaderboard": leaderboard_tables(board),
        "columns": own,
        "controls": CONTROLS,
        "reference": called(study.reference.name) if study.reference else "",
        "lower_is_better": listed(list(lower)),
        "rows": [
            _row(row, own) | {"bar": bar, "color": colors[row.arm.name]}
            for row, bar in zip(board, _bars(board, study.reference), strict=True)
        ],
        "tables": tables(study, board),
        "failures": _failures(study),
        "streams": {name: " → ".join(stream) for name, stream in study.streams.items()},
        "settings": settings(common | training | {f"scoring: {key}": value for key, value in scoring.items()}),
        "parameters": parameters(study),
        "stack": settings(stack | dict.fromkeys(mixed, "(several)")),
    }


def _row(row: BoardRow, own: Sequence[Column]) -> dict[str, Any]:
    """A row of the page's board; ``group`` decides where a line divides."""
    return {"name": row.arm.name, "control": row.arm.control, "why_not": row.why_not, "group": row.group,
            "cells": [column.cell(row) for column in own]}  # fmt: skip


def _colors(study: StudyResults, board: Sequence[BoardRow]) -> dict[str, str]:
    """Colour of every arm: that of the figures, or grey for an arm without a finished trial."""
    drawn = drawn_looks(study, board)
    return {row.arm.name: drawn[row.arm.name].color if row.arm.name in drawn else GRID for row in board}


def _bars(board: Sequence[BoardRow], reference: Arm | None) -> list[dict[str, Any] | None]:
    """Point and interval, or few trials, of the outcome on one axis for all arms, in per cent of it.

    It is marked at the reference's mean.
    """
    outcomes = [row.arm.estimate(PRIMARY) for row in board]
    dots = [sorted(row.arm.values(PRIMARY).values()) if v and v.n < FEW else [] for row, v in _with(board, outcomes)]
    trained = [(v, own) for (row, v), own in zip(_with(board, outcomes), dots, strict=True) if v and row.arm.trains]
    shown = trained or [(v, own) for v, own in zip(outcomes, dots, strict=True) if v]
    ends = [x for v, own in shown for x in (v.mean, *(own or (v.low, v.high))) if x is not None]
    if not ends:
        return [None] * len(outcomes)
    low, high = min(ends), max(ends)
    low, high = (low, high) if high - low >= 0.02 else (low - 0.01, high + 0.01)

    def at(x: float | None) -> str | None:
        return None if x is None else f"{3 + 94 * (x - low) / (high - low):.2f}"

    mark = next((at(v.mean) for row, v in zip(board, outcomes, strict=True) if v and row.arm is reference), None)
    return [
        {"mean": at(v.mean), "dots": [at(each) for each in own], "mark": mark,
         "low": None if own else at(v.low), "high": None if own else at(v.high)}
        if v and low <= v.mean <= high else None
        for v, own in zip(outcomes, dots, strict=True)
    ]  # fmt: skip


def _with(board: Sequence[BoardRow], outcomes: Sequence[Estimate | None]) -> list[tuple[BoardRow, Estimate | None]]:
    return list(zip(board, outcomes, strict=True))


def _matrices(study: StudyResults, board: Sequence[BoardRow]) -> dict[str, Any]:
    """For the script: the tasks of every order and each arm's mean matrix in it, in per cent.

    ``pooled`` is the mean over orders by position in the stream, where the orders have one length.
    """
    arms, colors = [], _colors(study, board)
    for row in (row for row in board if row.arm.trials):
        by_order = {order: _percents(row.arm, order) for order in study.streams}
        pooled = _percents(row.arm) if len(study.streams) > 1 else None
        matrices = {name: matrix for name, matrix in (by_order | {"": pooled}).items() if matrix}
        if matrices:
            arms.append({"name": row.arm.name, "color": colors[row.arm.name], "matrices": matrices})
    return {"orders": {name: list(stream) for name, stream in study.streams.items()}, "arms": arms}


def _percents(arm: Arm, order: str | None = None) -> list[list[float]] | None:
    matrix = mean_matrix(arm, order)
    return None if matrix is None else [[round(100 * float(value), 4) for value in line] for line in matrix]


def _failures(study: StudyResults) -> list[dict[str, Any]]:
    """Trials that did not finish; those that ended alike stand together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for record in (record for arm in study.arms for record in arm.unfinished):
        failure, spec = certain(record.failure), record.spec
        said = (clipped(text, LONGEST) for text in (failure.phase, failure.message, failure.traceback))
        key = (record.status, *said)
        alike.setdefault(key, []).append(f"{spec.arm}, order {spec.order}, seed {spec.seed}")
    shown = [
        {"title": f"{trials[0]}{f' and {len(trials) - 1} more' if len(trials) > 1 else ''}: {status}",
         "trials": trials, "phase": phase, "message": message, "traceback": traceback}
        for (status, phase, message, traceback), trials in alike.items()
    ]  # fmt: skip
    left = len(shown) - FAILURES
    if left > 0:
        rest = {"title": f"{left} more", "trials": [], "phase": "report", "traceback": "",
                "message": "their records are in trials/"}  # fmt: skip
        shown = [*shown[:FAILURES], rest]
    return shown
