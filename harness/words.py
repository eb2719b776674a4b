"""Numbers and counts as text, the same in a terminal and in a report."""

from __future__ import annotations

import math

NOTHING = "–"


def number(value: float | None, digits: int = 1, scale: float = 1.0, sign: bool = False) -> str:
    """A number with a real minus sign; a dash for what is undefined or not finite.

    A mean that lies on the edge of two texts, as 43.75 does, may be a last bit off it, to a side that depends on how a
    machine's libraries add up: what is below ten digits does not decide.
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{float(f'{value * scale:.10g}'):{'+' if sign else ''},.{digits}f}"
    # A mean that rounds to zero has no sign.
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def plural(count: int, word: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
