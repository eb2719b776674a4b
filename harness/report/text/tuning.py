"""The tuning tries of a study, where ``lorabench tune`` left a ``tuning.json`` beside its results."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.reading import read_json
from harness.report.numbers import NOTHING
from harness.report.text.table import Table, settings

TUNING_FILE = "tuning.json"
#: For arms whose best value was the smallest or the largest that was tried.
_AT_ENDS = " Chosen at an end of what was tried: {}; a wider grid may have a better one."


def tuning_table(folder: Path) -> Table | None:
    """Every try as a row, in the file's order; None without a file.

    The file is an object whose ``tries`` are flat objects; their keys become the columns.  Raises ``InputError``.
    """
    path = folder / TUNING_FILE
    if not path.exists():
        return None
    remedy = "run lorabench tune again, or remove this file"
    tuning = read_json(path, remedy=remedy)
    try:
        rows = [settings({str(key): _shown(value) for key, value in row.items()}) for row in tuning["tries"]]
        ends = {arm: choice.get("ends") or () for arm, choice in tuning.get("arms", {}).items()}
        at_ends = [f"{arm} ({', '.join(values)})" for arm, values in ends.items() if values]
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        what = f"not readable as the tries of a tuning: {type(problem).__name__}: {problem}"
        raise InputError(what, where=str(path), remedy=remedy) from problem
    note = f"Every setting that was tried, on tuning seeds and validation items; all of it is in {TUNING_FILE}."
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return Table(
        "Tuning tries",
        columns,
        [[row.get(name, NOTHING) for name in columns] for row in rows],
        note + (_AT_ENDS.format(", ".join(at_ends)) if at_ends else ""),
    )


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else NOTHING
    return NOTHING if value is None else value
