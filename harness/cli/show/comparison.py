"""Two arms beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.cli.show.screen import listing, print_json, screen

if TYPE_CHECKING:
    from harness.report.comparison import Comparison


def show_comparison(compared: Comparison, as_json: bool) -> None:
    """Two arms: the answer in words, then every metric."""
    from harness.report import comparison

    if as_json:
        print_json(comparison.as_data(compared))
        return
    for line in comparison.sentences(compared):
        screen.print(line)
    columns, rows = comparison.table(compared)
    listing(columns, rows, numeric=columns[1:])
