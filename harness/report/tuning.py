"""The tuning tries of a study, where ``lorabench tune`` left a ``tuning.json`` beside its results."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.report.render import Table, settings
from harness.report.words import NOTHING

TUNING_FILE = "tuning.json"


def tuning_table(folder: Path) -> Table | None:
    """Every try as a row, in the file's order; None without a file.

    The file is an object whose ``tries`` are flat objects; their keys become the columns.  Raises ``InputError``.
    """
    path = folder / TUNING_FILE
    if not path.exists():
        return None
    try:
        tries = json.loads(path.read_text(encoding="utf-8"))["tries"]
        rows = [settings({str(key): _shown(value) for key, value in row.items()}) for row in tries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise InputError(
            f"not readable as the tries of a tuning: {problem}",
            where=str(path),
            remedy="run lorabench tune again, or remove this file",
        ) from problem
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return Table(
        "Tuning tries",
        columns,
        [[row.get(name, NOTHING) for name in columns] for row in rows],
        f"Every setting that was tried, on tuning seeds and validation items; all of it is in {TUNING_FILE}.",
    )


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else NOTHING
    return NOTHING if value is None else value
