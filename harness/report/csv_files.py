"""The CSV files of a report: how a number becomes a cell, and how rows are written."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.report.files import readable
from harness.store.files import atomic_file

#: Some spreadsheet reads a cell that begins with one of these as a formula; full-width signs are among them.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")
#: Version of the columns of leaderboard.csv and trials.csv; results/README.md says what each column is.
TABLE_SCHEMA = 2
SCHEMA_VERSION = "schema_version"


def cell(value: Any) -> str:
    """One CSV cell: empty for None and numbers that are not finite, ten digits for floats, no spreadsheet formulas."""
    if type(value) is float:  # nearly always
        return format(value + 0.0, ".10g") if math.isfinite(value) else ""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float, np.number)):
        if not math.isfinite(value):
            return ""
        return str(int(value)) if isinstance(value, (int, np.integer)) else format(float(value) + 0.0, ".10g")
    text = readable(str(value))
    return "'" + text if text[:1] in FORMULA else text


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows under ``columns``, in their order; a key without a column is an error, a missing key is empty."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(map(cell, columns))
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)

    atomic_file(path, write)
    return path
