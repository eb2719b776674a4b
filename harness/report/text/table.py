"""A table as text, for page, Markdown and LaTeX."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

#: Signs of a number that is somebody's own; one with more was computed, and the records have all of it.
DIGITS = 10


@dataclass(frozen=True)
class Table:
    """A table as text: the first column names the row; ``fixed`` rows stay on top however the others are sorted."""

    heading: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    caption: str = ""
    fixed: list[list[str]] = field(default_factory=list)
    prose: bool = False  #: cells hold sentences, which wrap


def settings(values: dict[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(_short(value)) for name, value in values.items()}


def _short(value: Any) -> Any:
    """A number without the digits that a division leaves: 0.916667."""
    return float(f"{value:.6g}") if isinstance(value, float) and len(repr(value)) > DIGITS else value
