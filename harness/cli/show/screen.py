"""The terminal that everything is shown on: texts as they are, tables, a spinner, times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.cli.terminal import visible

#: Rows of a table, and messages of failed trials: more of them scroll past.
MOST_ROWS = 200
MOST_MESSAGES = 20


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
