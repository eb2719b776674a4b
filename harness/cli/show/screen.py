"""The terminal that everything is shown on: texts as they are, tables, a spinner, times."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.cli.terminal import visible

#: Rows of a table, and messages of failed trials: more of them scroll past.
MOST_ROWS = 200
MOST_MESSAGES = 20
#: Characters of a line of an arm's name in a table.
NAME_WIDTH = 32
#: Wider than any list: what isn't read on a terminal is read by a program, a line a row.
UNFOLDED = 10_000


class Screen(Console):
    """rich's console without markup and emoji codes, wherever it gets a text: in ``print``, a title or a cell."""

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


screen = Screen()


@contextmanager
def preparing(what: str) -> Iterator[None]:
    """A spinner while libraries load."""
    with screen.status(Text(visible(what))):  # a string would be read as markup, whatever the console says
        yield


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    grid = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        grid.add_column(column)
    for row in rows[:MOST_ROWS]:
        grid.add_row(*row)
    screen.print(grid)
    if len(rows) > MOST_ROWS:
        screen.print(f"and {len(rows) - MOST_ROWS:,} more")


def folded(arm: str, width: int = NAME_WIDTH) -> str:
    """An arm's name in lines of at most ``width`` characters, broken between its settings where that is enough."""
    lines = [""]
    for part in _parts(arm):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line[at : at + width] for line in lines for at in range(0, len(line), width))


def listing(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[str] = ()) -> None:
    """A list with a header and no frame: folded to a terminal, a line a row anywhere else; ``numeric`` to the right."""
    names = [columns[0], *(row[0] for row in rows)]
    if screen.is_terminal:
        names = [folded(name, _name_width(columns, rows)) for name in names]
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    widest = max(cell_len(line) for name in names for line in name.split("\n"))
    grid.add_column(names[0], overflow="fold", min_width=min(widest, NAME_WIDTH))
    for column in columns[1:]:
        grid.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    for name, (_, *cells) in zip(names[1:], rows, strict=True):
        grid.add_row(name, *cells)
    for line in _rendered(grid):
        screen.print(line)


def _name_width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Characters of a line of a name: so few that no setting is cut, where the whole list is wider than the screen."""
    natural = sum(2 + max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True))
    if natural <= screen.width:
        return NAME_WIDTH
    return min(NAME_WIDTH, max(cell_len(part) for row in rows for part in _parts(row[0])))


def _parts(arm: str) -> list[str]:
    """An arm's name where it may be broken: after its method and after each setting."""
    return re.findall(r"[^@,]+[@,]?|[@,]", arm)


def _rendered(grid: Table) -> Iterator[Text]:
    """The lines of a table without the blanks at their ends."""
    options = screen.options.update(width=screen.width if screen.is_terminal else UNFOLDED)
    for line in screen.render_lines(grid, options, pad=False):
        text = Text.assemble(*((part.text, part.style or "") for part in line))
        text.rstrip()
        yield text


def print_json(data: Any) -> None:
    """Data for a program: stdout holds it and nothing else."""
    print(json.dumps(data, indent=1, allow_nan=False))


def damaged_lines(files: Mapping[str, str]) -> list[str]:
    """What is wrong with each file that is no record."""
    shown = [f"  {name}: {problem}" for name, problem in list(files.items())[:MOST_MESSAGES]]
    more = [f"  and {len(files) - MOST_MESSAGES:,} more"] if len(files) > MOST_MESSAGES else []
    return ["damaged records, moved to quarantine/ by the next run:", *shown, *more] if files else []


def clock(seconds: float) -> str:
    """1:05 for 65 seconds, 2:03:04 for hours."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
