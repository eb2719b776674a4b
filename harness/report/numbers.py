"""Numbers as text, and words that go with them."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.statistics import Estimate
from harness.words import NOTHING, number, plural

__all__ = [
    "NOTHING",
    "NOT_TESTABLE",
    "interval",
    "joined",
    "listed",
    "number",
    "p_text",
    "percent",
    "plural",
    "points",
    "with_error",
]

#: Instead of a p or a group that no data could have given.
NOT_TESTABLE = "not testable"


def percent(value: float | None) -> str:
    return number(value, 1, 100)


def points(value: float | None) -> str:
    return number(value, 1, 100, sign=True)


def p_text(p: float | None) -> str:
    """An exact p to three digits, as .250; never rounded to 0, and to 1 only from 0.9995 up."""
    if p is None:
        return NOTHING
    if p < 0.001:
        return "< .001"
    return "1" if p >= 0.9995 else f"{p:.3f}"[1:]


def interval(value: Estimate | None, text=percent) -> str:
    """[low, high], and whether it was cut at an end of the scale; empty where there is none, as with one trial."""
    if value is None or value.low is None:
        return ""
    return f"[{text(value.low)}, {text(value.high)}]{' cut' if value.cut else ''}"


def with_error(text: str, error: float | None, scale=percent) -> str:
    """``41.7 ± 2.3``: a score with its standard error over the test items, where that is known."""
    return text if error is None or text == NOTHING else f"{text} ± {scale(error)}"


def joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
