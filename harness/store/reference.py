"""Whom the arms of a study are compared with, as ``study.json`` of its results says."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from harness.errors import InputError
from harness.store.values import Frozen


class Reference(Frozen):
    """The arm that the others are compared with, and those that are compared with another arm of its method.

    ``partners`` are arms that have the settings of another arm of the reference's method: arm -> that one.
    """

    arm: str
    why: str  #: in a clause: why this one
    partners: dict[str, str] = Field(default_factory=dict)

    def partner(self, arm: str) -> str | None:
        """Whom an arm is compared with; None for the reference itself."""
        return None if arm == self.arm else self.partners.get(arm, self.arm)


def check_reference(data: Any, where: str) -> Reference | None:
    """Plain data as a reference; None where there is none.  Raises InputError."""
    if data is None:
        return None
    try:
        return Reference.model_validate(data)
    except ValidationError as problem:
        what = f"not readable as the reference of a comparison: {problem.errors()[0]['msg']}"
        raise InputError(what, where=where, remedy="run the study again: lorabench run STUDY") from None
