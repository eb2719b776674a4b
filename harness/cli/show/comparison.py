"""Two arms beside each other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from harness.cli.show.screen import screen

if TYPE_CHECKING:
    from harness.report.comparison import Comparison


def show_comparison(compared: Comparison, as_json: bool) -> None:
    """Two arms: the answer in words, then every metric."""
    from harness.report import comparison

    if as_json:
        print(json.dumps(comparison.as_data(compared), indent=1, allow_nan=False))
        return
    for line in comparison.sentences(compared):
        screen.print(line)
    columns, rows = comparison.table(compared)
    lines = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *rest in lines:
        screen.print("  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]))
