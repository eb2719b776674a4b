"""What every kind of record is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Score = Annotated[float, Field(allow_inf_nan=False)]
Scalar = str | int | float | bool | None


class Frozen(BaseModel):
    """A typed, immutable value that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
