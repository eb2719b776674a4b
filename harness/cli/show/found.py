"""Tables of a report in the terminal."""

from __future__ import annotations

from harness.cli.show.screen import listing, screen
from harness.report.text.table import Table


def show_table(table: Table) -> None:
    """Heading, table and caption."""
    screen.print(f"\n{table.heading}", style="bold")
    listing(table.columns, [*table.fixed, *table.rows], numeric=() if table.prose else table.columns[1:])
    if table.caption:
        screen.print(table.caption)
