"""Published numbers of a benchmark, for the report to show beside a study's numbers.

``tasks/published/<name>.yaml`` is a list of rows; a study names it with ``published: <name>``.  The rows go into the
results folder with the study's first run, so that a report needs no task files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from harness.errors import InputError, unknown_name
from harness.reading import read_yaml


class PublishedRow(BaseModel):
    """One method's result, as its source states it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: str = Field(min_length=1)
    model: str = Field(min_length=1)
    protocol: str = Field(min_length=1)  #: orders, examples, rank: whatever makes it comparable or not
    accuracy: float = Field(ge=0, le=100)  #: average after the last task, per cent
    bwt: float | None = Field(None, ge=-100, le=100)  #: backward transfer, points
    source: str = Field(min_length=1)


_ROWS = TypeAdapter(tuple[PublishedRow, ...])


def read_published(name: str, folder: Path, where: str) -> tuple[PublishedRow, ...]:
    """The rows of ``folder/<name>.yaml``.  Raises InputError; ``where`` is the key that gives the name."""
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in known:
        raise unknown_name("list of published numbers", name, known, where=where)
    rows = read_yaml(known[name], remedy="correct the list of published numbers")
    return check_published(rows, str(known[name]))


def check_published(rows: Any, where: str) -> tuple[PublishedRow, ...]:
    """Plain data as rows; raises InputError, which names the row."""
    try:
        return _ROWS.validate_python(rows)
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(map(str, first["loc"]))
        remedy = f"the keys of a row: {', '.join(PublishedRow.model_fields)}"
        raise InputError(first["msg"], where=f"{where}:{key}", remedy=remedy) from None


def plain(rows: Sequence[PublishedRow]) -> list[dict[str, Any]]:
    """Rows as JSON can hold them."""
    return [row.model_dump(mode="json") for row in rows]
