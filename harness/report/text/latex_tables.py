"""Tables as LaTeX floats that can be read in print: few columns each, and none that says nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

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
        "→": r"$\to$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "·": r"$\cdot$",
        "‖": r"$\Vert$",
        "₂": r"$_2$",
        "●": r"$\bullet$",
        **{sign: f"$^{digit}$" for sign, digit in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True)},
        "Δ": r"$\Delta$",
        "ε": r"$\varepsilon$",
        "λ": r"$\lambda$",
        "ρ": r"$\rho$",
    }
)
#: The last sign of the Latin alphabets, which every LaTeX of today knows by itself, as it does these quotation marks.
LATIN = 0x17F
QUOTES = "‘’“”„"
#: Columns of a table at most, with that of the names: more could not be read at the width of a page.
MOST = 6
#: Letters of a heading's line.
HEADING = 16
#: Letters side by side, with their gaps, that the width of a text holds in small type.
ROOM = 88
#: Letters of a cell from which a column of sentences wraps.
WRAPS = 26
#: A number and what stands beside it: its interval, its standard error, how many times the reference's it is.
BESIDE = re.compile(r"(\S+) ((?:\[|± |\().*)")
#: What begins as a number does, or says that there is none.
NUMBER = re.compile(rf"[+−-]?\d|{NOTHING}$")
#: A command, in text.
VERBATIM = re.compile("`([^`]*)`")


def escaped(text: str) -> str:
    """Text that stays text: no command, no sign that fonts lack, and no line break that would end a row."""
    plain = " ".join(readable(text).split())
    plain = re.sub("-(?=-)", "-\u200b", plain).translate(SIGNS).replace("\u200b", "{}")
    known = "".join(
        sign if ord(sign) <= LATIN or sign in QUOTES else rf"\texttt{{U+{ord(sign):04X}}}" for sign in plain
    )
    return VERBATIM.sub(r"\\texttt{\1}", known)


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


def environment(rules: Sequence[str], columns: str, caption: str, label: str) -> str:
    """A float; LaTeX itself measures the table, and scales one that is wider than its line."""
    tabular = "\n".join([rf"\begin{{tabular}}{{{columns}}}", *rules, r"\bottomrule", r"\end{tabular}%"])
    return f"""\\begin{{table}}[tbp]
\\centering\\small
\\setlength{{\\tabcolsep}}{{4pt}}\\setlength{{\\belowcaptionskip}}{{6pt}}
\\caption{{{caption}}}
\\label{{{label}}}
\\sbox0{{%
{tabular}
}}%
\\ifdim\\wd0>\\linewidth\\resizebox{{\\linewidth}}{{!}}{{\\usebox0}}\\else\\usebox0\\fi
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
    caption = escaped(f"{table.heading}. {table.caption}".strip())
    body = [*table.fixed, *table.rows]
    if table.prose:
        spec, wraps = _widths(table)
        lines = [[_wrapping(cell) if wrap else _cell(cell) for cell, wrap in zip(row, wraps, strict=True)]
                 for row in body]  # fmt: skip
        heads = [_wrapping(name) if wrap else heading(name, "l")
                 for name, wrap in zip(table.columns, wraps, strict=True)]  # fmt: skip
    else:
        spec, heads, lines = numbers(table.columns, [[split(cell) for cell in row] for row in body])
    rules = [r"\toprule", line(heads), r"\midrule", *map(line, lines[: len(table.fixed)])]
    if table.fixed:
        rules.append(r"\midrule")
    return environment([*rules, *map(line, lines[len(table.fixed) :])], spec, caption, label)


class Number(NamedTuple):
    """A cell: text, what stands beside it in smaller letters, and the command that marks the text."""

    text: str
    beside: str = ""
    command: str = ""


def numbers(names: Sequence[str], rows: Sequence[Sequence[Number]]) -> tuple[str, list[str], list[list[str]]]:
    """The columns' letters, their headings, and the cells of each row, of numbers with what stands beside them.

    Both are columns of their own where anything stands beside one, so that numbers and intervals are in line.
    """
    rows = [
        [Number(_whole(row[0]), command=row[0].command), *row[1:]] for row in rows
    ]  # names, if only of a task "0.5 (all)"
    double = [any(cell.beside for cell in column) for column in zip(*rows, strict=True)] or [False] * len(names)
    spec = "l" + "".join(r"r@{\hspace{3pt}}l" if two else "r" for two in double[1:])
    heads = [heading(name, "l" if i == 0 else "c" if two else "r", 2 if two else 1)
             for i, (name, two) in enumerate(zip(names, double, strict=True))]  # fmt: skip
    cells = [[_pair(cell) if two else _marked(cell) for cell, two in zip(row, double, strict=True)] for row in rows]
    return spec, heads, cells


def split(text: str) -> Number:
    """A number and what stands beside it; text that is none stays whole."""
    found = BESIDE.fullmatch(text)
    return Number(found[1], found[2]) if found and NUMBER.match(text) else Number(text)


def _whole(cell: Number) -> str:
    return f"{cell.text} {cell.beside}".strip()


def line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _pair(cell: Number) -> str:
    """A cell of two columns; what is no number stands in the middle of both."""
    if not NUMBER.match(cell.text):
        return rf"\multicolumn{{2}}{{c}}{{{_marked(cell)}}}"
    beside = escaped(cell.beside)
    small = rf"{{\scriptsize {beside}}}" if beside.startswith("[") else beside
    return f"{_marked(cell)} & {small}".rstrip()


def _marked(cell: Number) -> str:
    return f"{cell.command}{{{escaped(cell.text)}}}" if cell.command else _cell(cell.text)


def _widths(table: Table) -> tuple[str, list[bool]]:
    """Letters of the columns, and which wrap: those of sentences share what the others leave of the width."""
    longest = [max(len(cell) for cell in column)
               for column in zip(*(table.columns, *table.fixed, *table.rows), strict=True)]  # fmt: skip
    wraps = [length > WRAPS for length in longest]
    left = ROOM - sum(2 + length for length, wrap in zip(longest, wraps, strict=True) if not wrap)
    weights = [length**0.5 if wrap else 0.0 for length, wrap in zip(longest, wraps, strict=True)]
    room = max(left, 20 * sum(wraps)) / ROOM
    letters = [rf">{{\raggedright\arraybackslash}}p{{{room * weight / sum(weights):.3f}\linewidth}}" if weight else "l"
               for weight in weights]  # fmt: skip
    return "".join(letters), wraps


def _lines_of(heading: str) -> list[str]:
    """A heading, broken between words; a unit stays with its number."""
    lines = [""]
    for word in heading.replace(" %", "\u00a0%").split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > HEADING:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def heading(text: str, side: str = "r", columns: int = 1) -> str:
    """A column's name in as many lines as it needs: long ones would make the table wider than its numbers do."""
    stacked = r"\\".join(map(_cell, _lines_of(text)))
    whole = rf"\shortstack[{side}]{{{stacked}}}" if r"\\" in stacked else stacked
    return rf"\multicolumn{{{columns}}}{{{side}}}{{{whole}}}" if columns > 1 else whole


def _cell(text: str) -> str:
    # A cell that begins with [ after \\ would be read as its optional argument.
    return "{}" + escaped(text) if text.startswith("[") else escaped(text)


def _wrapping(text: str) -> str:
    """A cell whose long names may break where their parts meet."""
    return re.sub(r"([@,=/]|\\_)(?=\S)", r"\1\\allowbreak{}", _cell(text))
