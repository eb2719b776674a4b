"""report.tex: the report's tables for a paper, with booktabs."""

from __future__ import annotations

from pathlib import Path

from harness.report.files import readable, write_text
from harness.report.leaderboard import Board
from harness.report.study import StudyResults
from harness.report.text.answer import WILL_CHANGE, halfway
from harness.report.text.board import leaderboard_tables
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
        "Δ": r"$\Delta$",
        "→": r"$\to$",
        "≤": r"$\leq$",
        "·": r"$\cdot$",
    }
)
HEAD = r"""% Tables of a lorabench report: \input{report}, with \usepackage{booktabs,graphicx} and
% \usepackage[T1]{fontenc} in the preamble.
"""


def write_latex(study: StudyResults, board: Board, folder: Path) -> Path:
    """Write every table of the report as a separate float."""
    more = [*tables(study, board), *cause_tables(study, folder), parameters(study)]
    all_tables = [*leaderboard_tables(board), *more]
    label = "".join(letter if letter.isalnum() else "-" for letter in study.name.lower())
    parts = [_float(table, f"tab:{label}-{i}") for i, table in enumerate(all_tables, start=1)]
    mark = f"% {escaped(halfway(study))}. {escaped(WILL_CHANGE)}\n" if study.partial else ""
    return write_text(folder / "report.tex", HEAD + mark + "\n".join(parts))


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
    tabular = "\n".join([rf"\begin{{tabular}}{{{columns}}}", *rules, r"\end{tabular}"])
    if len(table.columns) > 6:
        tabular = f"\\resizebox{{\\textwidth}}{{!}}{{%\n{tabular}%\n}}"
    caption = escaped(f"{table.heading}. {table.caption}".strip())
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
