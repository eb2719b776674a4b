"""Tables as LaTeX floats that can be read in print: few columns each, and none that says nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from harness.report.files import readable
from harness.report.numbers import NOTHING
from harness.report.text.table import Table

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
#: Columns of a table at most, with that of the names: more could not be read at the width of a page.
MOST = 6
#: Letters of a heading's line.
HEADING = 16
#: Letters side by side, with their gaps, that the width of a text holds in small type; a wider table is scaled to it.
ROOM = 74
#: A number's interval, which stands in smaller type.
ENDS = re.compile(r"(.*\S) (\[[^\]]*\](?: cut)?)")


def escaped(text: str) -> str:
    """Text that stays text: no command, and no line break that would end a row."""
    return " ".join(readable(text).split()).translate(SIGNS)


def floats(table: Table, label: str) -> list[str]:
    """The table as one float or several: of :data:`MOST` columns at most, the names in each, and no empty column."""
    parts = _split(_filled(table))
    count = len(parts)
    return [
        _float(
            replace(part, heading=f"{table.heading} ({i} of {count})" if count > 1 else table.heading),
            f"{label}-{i}" if count > 1 else label,
        )
        for i, part in enumerate(parts, start=1)
    ]


def environment(rules: Sequence[str], columns: str, caption: str, label: str, *, wide: bool) -> str:
    """A float; a wide table is scaled to the width of the text."""
    tabular = "\n".join([rf"\begin{{tabular}}{{{columns}}}", *rules, r"\bottomrule", r"\end{tabular}"])
    if wide:
        tabular = f"\\resizebox{{\\textwidth}}{{!}}{{%\n{tabular}%\n}}"
    return f"""\\begin{{table}}[t]
\\centering\\small
\\caption{{{caption}}}
\\label{{{label}}}
{tabular}
\\end{{table}}
"""


def _of_columns(table: Table, which: Sequence[int]) -> Table:
    """These columns of it, by their place."""

    def cells(row: Sequence[str]) -> list[str]:
        return [row[i] for i in which]

    rows, fixed = [cells(row) for row in table.rows], [cells(row) for row in table.fixed]
    return replace(table, columns=cells(table.columns), rows=rows, fixed=fixed)


def _filled(table: Table) -> Table:
    """Without the columns that hold nothing in any row."""
    rows = [*table.fixed, *table.rows]
    said = [i for i in range(1, len(table.columns)) if any(row[i].strip() not in ("", NOTHING) for row in rows)]
    return _of_columns(table, [0, *said])


def _split(table: Table) -> list[Table]:
    """Parts of about as many columns each, every one with the first."""
    others = len(table.columns) - 1
    count = max(1, -(-others // (MOST - 1)))
    ends = [1 + round(others * i / count) for i in range(count + 1)]
    return [_of_columns(table, [0, *range(*pair)]) for pair in pairwise(ends)]


def _float(table: Table, label: str) -> str:
    lines = [" & ".join(map(_cell, row)) + r" \\" for row in (*table.fixed, *table.rows)]
    rules = [r"\toprule", " & ".join(map(heading, table.columns)) + r" \\", r"\midrule", *lines[: len(table.fixed)]]
    if table.fixed:
        rules.append(r"\midrule")
    rules += lines[len(table.fixed) :]
    count = len(table.columns)
    # What remains of the text's width is the gaps between the columns.
    share = f"p{{{0.86 / count:.3f}\\textwidth}}"
    columns = share * count if table.prose else "l" + "r" * (count - 1)
    caption = escaped(f"{table.heading}. {table.caption}".strip())
    return environment(rules, columns, caption, label, wide=not table.prose and _width(table) > ROOM)


def _width(table: Table) -> int:
    """Letters side by side, with two for the gap of each column; an interval's are about three quarters as wide."""

    def letters(text: str) -> int:
        found = ENDS.fullmatch(text)
        return len(found[1]) + 1 + 3 * len(found[2]) // 4 if found else len(text)

    columns = zip(*(*table.fixed, *table.rows), strict=True)
    heads = [max(map(len, _lines_of(name))) for name in table.columns]
    return sum(2 + max(head, *map(letters, cells)) for head, cells in zip(heads, columns, strict=False))


def _lines_of(heading: str) -> list[str]:
    """A heading, broken between words."""
    lines = [""]
    for word in heading.split() or [""]:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > HEADING:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def heading(text: str) -> str:
    """A column's name in as many lines as it needs: long ones would make the table wider than its numbers do."""
    lines = [escaped(line) for line in _lines_of(text)]
    stacked = r"\\".join(lines)
    return stacked if len(lines) == 1 else rf"\shortstack[r]{{{stacked}}}"


def _cell(text: str) -> str:
    if found := ENDS.fullmatch(text):
        return rf"{escaped(found[1])} {{\scriptsize {escaped(found[2])}}}"
    # A cell that begins with [ after \\ would be read as its optional argument.
    return "{}" + escaped(text) if text.startswith("[") else escaped(text)
