"""report.tex: the report's tables for a paper, with booktabs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import unknown_name
from harness.report.files import readable, write_text
from harness.report.leaderboard import Board
from harness.report.metrics import PRIMARY
from harness.report.study import StudyResults
from harness.report.text.answer import WILL_CHANGE, halfway
from harness.report.text.board import Cell, Column, columns
from harness.report.text.mitigation import cause_tables
from harness.report.text.table import Table
from harness.report.text.tables import parameters, tables

#: Signs that LaTeX does not read as text, and signs that its usual fonts lack.
SIGNS = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"$<$",
        ">": r"$>$",
        "|": r"$|$",
        '"': r"\textquotedbl{}",
        "−": r"$-$",
        "±": r"$\pm$",
        "–": r"--",
        "…": r"\ldots{}",
        "×": r"$\times$",
        "Δ": r"$\Delta$",
        "→": r"$\to$",
        "≤": r"$\leq$",
        "·": r"$\cdot$",
    }
)
HEAD = r"""% Tables of a lorabench report: \input{report}, with \usepackage{booktabs,graphicx} and
% \usepackage[T1]{fontenc} in the preamble.
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
    parts = [_float(table, f"tab:{label}-{i}") for i, table in enumerate(others, start=1)]
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
    parts = [[row for row in board if row.arm.control is control] for control in (False, True)]
    lines = [[escaped(name) for name in ("Method", *(column.heading for column in shown))]]
    bodies = [
        [[escaped(row.arm.name), *(_marked(column.cell(row), marks[column.heading].get(row.arm.name, ""))
                                   for column in shown)] for row in rows]
        for rows in parts if rows
    ]  # fmt: skip
    rules = [r"\toprule", *_lines(lines)]
    for body in bodies:
        rules += [r"\midrule", *_lines(body)]
    caption = "Means over trials, with the 95 % CI. Bold: the best contestant of a column; underlined: the second."
    below = " Below the line: controls." if len(bodies) > 1 else ""
    return _environment(rules, "l" + "r" * len(shown), escaped(f"Leaderboard. {caption}{below}"), label)


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


def _marked(cell: Cell, command: str) -> str:
    text = f"{command}{{{escaped(cell.text)}}}" if command else escaped(cell.text)
    return rf"{text} {{\scriptsize {escaped(cell.beside)}}}" if cell.beside else text


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    return [" & ".join(row) + r" \\" for row in rows]


def escaped(text: str) -> str:
    """Text that stays text: no command, and no line break that would end a row."""
    return " ".join(readable(text).split()).translate(SIGNS)


def _float(table: Table, label: str) -> str:
    """One table; a wide one is scaled to the width of the text."""
    rows = [" & ".join(map(_cell, row)) + r" \\" for row in (table.columns, *table.fixed, *table.rows)]
    rules = [r"\toprule", rows[0], r"\midrule", *rows[1 : 1 + len(table.fixed)]]
    if table.fixed:
        rules.append(r"\midrule")
    rules += [*rows[1 + len(table.fixed) :], r"\bottomrule"]
    columns = "p{32mm}" * len(table.columns) if table.prose else "l" + "r" * (len(table.columns) - 1)
    return _environment(rules[:-1], columns, escaped(f"{table.heading}. {table.caption}".strip()), label)


def _environment(rules: Sequence[str], columns: str, caption: str, label: str) -> str:
    """A float; a wide table is scaled to the width of the text."""
    tabular = "\n".join([rf"\begin{{tabular}}{{{columns}}}", *rules, r"\bottomrule", r"\end{tabular}"])
    if columns.count("r") > 4:
        tabular = f"\\resizebox{{\\textwidth}}{{!}}{{%\n{tabular}%\n}}"
    return f"""\\begin{{table}}[t]
\\centering\\small
\\caption{{{caption}}}
\\label{{{label}}}
{tabular}
\\end{{table}}
"""


def _cell(text: str) -> str:
    # A cell that begins with [ after \\ would be read as its optional argument.
    return "{}" + escaped(text) if text.startswith("[") else escaped(text)
