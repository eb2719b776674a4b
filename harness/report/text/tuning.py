"""The tuning tries of a study, where ``lorabench tune`` left a ``tuning.json`` beside its results."""

from __future__ import annotations

import math
from typing import Any

from harness.report.numbers import NOTHING
from harness.report.text.table import Table, settings
from harness.store.tuning import FILE, Tuning

#: For arms whose best value was the smallest or the largest that was tried.
_AT_ENDS = " Chosen at an end of what was tried: {}; a wider grid may have a better one."
_BEYOND = " Tried beyond an end of the grid, where the best of it lay: {}."

_SHIPPED = " The settings ship with the study: nothing was tried where these trials ran."


def tuning_table(tuning: Tuning) -> Table:
    """Every try as a row, in the file's order; the keys of the tries are the columns."""
    rows = [settings({key: _shown(value) for key, value in row.items()}) for row in tuning.tries]
    at_ends = [f"{arm} ({', '.join(choice.ends)})" for arm, choice in tuning.arms.items() if choice.ends]
    beyond = [f"{arm} ({'; '.join(choice.beyond)})" for arm, choice in tuning.arms.items() if choice.beyond]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    note = f"Every setting that was tried, on tuning seeds and validation items; all of it is in {FILE}."
    return Table(
        "Tuning tries",
        columns,
        [[row.get(name, NOTHING) for name in columns] for row in rows],
        note
        + (_SHIPPED if tuning.shipped else "")
        + (_BEYOND.format(", ".join(beyond)) if beyond else "")
        + (_AT_ENDS.format(", ".join(at_ends)) if at_ends else ""),
    )


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else NOTHING
    return NOTHING if value is None else value
