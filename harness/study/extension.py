"""A grid whose best lies at its end says little: it gets one value more beyond that end, once.

The value is one step of the grid's own ratio further, as 0.004 after 0.001 and 0.002, with the other settings as they
were best.  Every arm is offered it by the same rule, and ``settings tried`` counts it; so an arm whose grid was placed
badly is not judged by where its grid ended, and an arm whose grid was placed well gets no tries that it has no use for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from harness.errors import InputError
from harness.study.config import Study
from harness.study.methods import MethodLike
from harness.study.search import Search, Try, check, label, tried_as

#: Of two values one is always at an end, which says nothing.
ENOUGH = 3


def numbers(tries: Iterable[Try], chosen: Try) -> dict[str, list[float]]:
    """The values that were tried of every setting that has three numbers or more, in order."""
    tried = {name: {entry.values[name] for entry in tries} for name in chosen.values}
    return {
        name: sorted(values) for name, values in tried.items()
        if len(values) >= ENOUGH and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    }  # fmt: skip


def ends(tries: Iterable[Try], chosen: Try) -> tuple[str, ...]:
    """The chosen setting's numbers that are the least or the largest of those that were tried."""
    found = numbers(tries, chosen)
    return tuple(name for name, values in found.items() if chosen.values[name] in (values[0], values[-1]))


def place(tries: Iterable[Try], chosen: Try) -> Literal["inside", "at an end", ""]:
    """Where the chosen setting lies among what was tried; empty where there are no numbers to say it of."""
    tries = list(tries)
    if not numbers(tries, chosen):
        return ""
    return "at an end" if ends(tries, chosen) else "inside"


def beyond(values: list[float], end: float) -> float | None:
    """One step further than an ``end`` of the values, by the ratio of the last two, or their difference around 0.

    None where whole numbers have no further one.
    """
    near = values[-2] if end == values[-1] else values[1]
    value = end * end / near if end * near > 0 else 2 * end - near
    if all(isinstance(each, int) for each in values):
        whole = round(value)
        return None if whole in values or (whole == 0 and end * near > 0) else whole
    return float(f"{value:.6g}")


def extended(study: Study, search: Search, chosen: Try | None, method: MethodLike, where: str) -> Search:
    """The search with the tries beyond the ends that ``chosen`` lies at; what the method refuses is left out."""
    if chosen is None:
        return replace(search, extension=())
    tries, refused = [], []
    for name in ends(search.tries, chosen):
        value = beyond(numbers(search.tries, chosen)[name], chosen.values[name])
        if value is None:
            continue
        values: Mapping[str, Any] = {**chosen.values, name: value}
        try:
            check(study, method, {**search.fixed, **values}, where)
        except InputError as error:
            refused.append(f"{label({name: value})} ({error.what})")
        else:
            tries.append(tried_as(search.arm, values, search.default))
    return replace(search, extension=tuple(tries), refused=tuple(refused))
