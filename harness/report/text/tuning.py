"""The tuning tries of a study, where ``lorabench tune`` left a ``tuning.json`` beside its results."""

from __future__ import annotations

import math
from typing import Any

from harness.report.numbers import NOTHING, percent
from harness.report.text.table import Table
from harness.store.tuning import FILE, Tuning

#: For arms whose best value was the smallest or the largest that was tried.
_AT_ENDS = " Chosen at an end of what was tried: {}; a wider grid may have a better one."
_BEYOND = " Tried beyond an end of the grid, where the best of it lay: {}."

_SHIPPED = " The settings ship with the study: nothing was tried where these trials ran."


#: The keys of a try, as headings.
_HEADINGS = {
    "arm": "Method",
    "setting": "Setting",
    "metric": "Chosen by",
    "score": "Score, %",
    "standard_error": "Standard error, points",
    "trials": "Trials",
    "diverged": "Diverged",
    "beyond": "Beyond the grid",
    "best": "Best",
    "chosen": "Chosen",
}


def tuning_table(tuning: Tuning) -> Table:
    """Every try as a row, in the file's order; the keys of the tries are the columns."""
    at_ends = [f"{arm} ({', '.join(choice.ends)})" for arm, choice in tuning.arms.items() if choice.ends]
    beyond = [f"{arm} ({'; '.join(choice.beyond)})" for arm, choice in tuning.arms.items() if choice.beyond]
    keys = list(dict.fromkeys(key for row in tuning.tries for key in row))
    note = f"Every setting that was tried, on tuning seeds and validation items; all of it is in {FILE}."
    return Table(
        "Tuning tries",
        [_HEADINGS.get(key, key) for key in keys],
        [[_shown(key, row.get(key)) for key in keys] for row in tuning.tries],
        note
        + (_SHIPPED if tuning.shipped else "")
        + (_BEYOND.format(", ".join(beyond)) if beyond else "")
        + (_AT_ENDS.format(", ".join(at_ends)) if at_ends else ""),
    )


def _shown(key: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key in ("score", "standard_error") and isinstance(value, int | float):
        return percent(value)
    return str(value).replace("_", " ") if key == "metric" else str(value)
