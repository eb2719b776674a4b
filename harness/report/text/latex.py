"""report.tex: the report's tables for a paper, with booktabs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from harness.errors import unknown_name
from harness.report.files import write_text
from harness.report.leaderboard import Board
from harness.report.metrics import PRIMARY
from harness.report.study import StudyResults
from harness.report.text.answer import WILL_CHANGE, halfway
from harness.report.text.board import Cell, Column, columns
from harness.report.text.latex_tables import Number, environment, escaped, floats, line, numbers
from harness.report.text.mitigation import cause_tables
from harness.report.text.parameters import parameters
from harness.report.text.table import Table
from harness.report.text.tables import tables

HEAD = r"""% Tables of a lorabench report: \input{report}, with \usepackage{array,booktabs,graphicx} and
% \usepackage[T1]{fontenc} in the preamble.  A table is as wide as its line at most; in a paper of two
% columns {table*} gives it both.
"""
#: Between the main table and all others.
APPENDIX = "% -- for an appendix ----------------------------------------------------------------------------------\n"
#: Metrics of the main table, beside the method.
MAIN = (PRIMARY, "forgetting", "plain_text_delta", "learning_accuracy", "sample_efficiency_auc")


def write_latex(study: StudyResults, board: Board, folder: Path, chosen: Sequence[str] = MAIN) -> Path:
    """Write a main table of the ``chosen`` metrics, then, for an appendix, the rest of the board and all other tables.

    Raises ``InputError`` for the name of no metric of the board.
    """
    columns_of_main, rest = _split(board, chosen or MAIN)
    label = "".join(letter if letter.isalnum() else "-" for letter in study.name.lower())
    main = _main(board, columns_of_main, f"tab:{label}")
    board_rest = Table(
        "The rest of the leaderboard",
        ["Method", *(column.heading for column in rest), "Ranked"],
        [[row.arm.name, *(str(column.cell(row)) for column in rest), row.why_not or "yes"] for row in board],
        "In brackets: 95 % CI.",
    )
    others = [board_rest, *tables(study, board), *cause_tables(study, folder), parameters(study)]
    parts = [part for i, table in enumerate(others, start=1) for part in floats(table, f"tab:{label}-{i}")]
    mark = f"% {escaped(halfway(study))}. {escaped(WILL_CHANGE)}\n" if study.partial else ""
    return write_text(folder / "report.tex", HEAD + mark + main + APPENDIX + "\n".join(parts))


def _split(board: Board, chosen: Sequence[str]) -> tuple[list[Column], list[Column]]:
    """The board's columns of these metrics, in this order, and all others."""
    own = columns(board)
    by_name = {column.metric.name: column for column in own if column.metric}
    for name in chosen:
        if name not in by_name:
            raise unknown_name("column", name, by_name, where="--columns")
    first = [by_name[name] for name in dict.fromkeys(chosen)]
    return first, [column for column in own if column not in first]


def _main(board: Board, shown: Sequence[Column], label: str) -> str:
    """The best ranked contestant of a column in bold, the second underlined; controls below a rule, unmarked."""
    marks = {column.heading: _marks(board, column) for column in shown}
    parts = [part for control in (False, True) if (part := [row for row in board if row.arm.control is control])]
    cells = [[Number(row.arm.name), *(_number(column.cell(row), marks[column.heading].get(row.arm.name, ""))
                                      for column in shown)] for part in parts for row in part]  # fmt: skip
    spec, heads, lines = numbers(["Method", *(column.heading for column in shown)], cells)
    rules, written = [r"\toprule", line(heads)], map(line, lines)
    for part in parts:
        rules += [r"\midrule", *islice(written, len(part))]
    caption = "Means over trials, with the 95 % CI. Bold: the best contestant of a column; underlined: the second."
    below = " Below the line: controls." if len(parts) > 1 else ""
    return environment(rules, spec, escaped(f"Leaderboard. {caption}{below}"), label)


def _marks(board: Board, column: Column) -> dict[str, str]:
    """The command for the best and the second contestants of a column, by arm; equal numbers share it."""
    metric = column.metric
    if metric is None or not metric.better:
        return {}
    sign = 1 if metric.better == "higher" else -1
    means = {row.arm.name: sign * round(mean, 12) for row in board
             if row.contends and (mean := row.arm.mean(metric)) is not None}  # fmt: skip
    ranked = sorted(set(means.values()), reverse=True)
    if len(ranked) < 2:
        return {}
    commands = dict(zip(ranked, (r"\textbf", r"\underline"), strict=False))
    return {name: commands[mean] for name, mean in means.items() if mean in commands}


def _number(cell: Cell, command: str) -> Number:
    return Number(cell.text, cell.beside, command)
