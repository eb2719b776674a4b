"""What sources claim of methods, for a report to hold its own numbers against.

``tasks/claims/<name>.yaml`` is a list of claims; a study names it with ``claims: <name>``.  They go into the results
folder with the study's first run, so that a report needs no task files.  (The claim that a run has on its folder is
another thing: :mod:`harness.store.claims`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from harness.errors import InputError, unknown_name
from harness.reading import read_yaml
from harness.store.values import Frozen

#: Metrics of which a difference of two arms may be claimed; a test holds that each has paired differences.
Outcome = Literal[
    "average_accuracy", "learning_accuracy", "forgetting", "backward_transfer", "general_delta", "plain_text_delta",
    "sample_efficiency_auc", "intruder_count", "intruder_distance",
]  # fmt: skip
#: Measures of intruder dimensions whose rank correlation with forgetting may be claimed.
Measure = Literal["count", "distance"]
#: What becomes of a claim that no board of the study tests.
_WAYS = ("arm", "correlation", "needs")


class SourceClaim(Frozen):
    """One claim, as its source states it, and what of this bench tests it.

    Three ways: ``arm`` (a paired difference), ``correlation`` (a rank correlation over all trials), and ``needs``, of a
    claim that a board of the study can't test.  Sizes are in the unit of the board: points, intruders, bits a byte.
    """

    claim: str = Field(min_length=1)  #: a sentence
    source: str = Field(min_length=1)
    number: str = Field(min_length=1)  #: as the source has it
    model: str = Field(min_length=1)
    protocol: str = Field(min_length=1)  #: tasks, settings, repeats: whatever makes it comparable or not
    arm: tuple[str, ...] = ()  #: arms of the study; of several, the claim is of each of them
    against: str | None = None  #: an arm; None: whom the study compares ``arm`` with
    outcome: Outcome | None = None  #: whose difference, ``arm`` minus ``against``, is claimed
    correlation: Measure | None = None  #: of intruder dimensions, with forgetting
    direction: Literal["higher", "lower", "same"] | None = None  #: of the difference or correlation, against 0
    least: float | None = Field(None, ge=0)  #: the claimed size, in the claimed direction
    most: float | None = Field(None, ge=0)
    within: float | None = Field(None, gt=0)  #: how far apart is the same
    tuned: bool = False  #: the claim is of tuned arms
    possible: bool = False  #: the source says that it can happen: one study may show that, and can't refute it
    differs: str = ""  #: what this bench does otherwise
    needs: str = ""  #: what would test it

    @field_validator("arm", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def sign(self) -> int:
        """1 for a claim of more, -1 for one of less, 0 for one of the same."""
        return {"higher": 1, "lower": -1}.get(self.direction or "", 0)


_CLAIMS = TypeAdapter(tuple[SourceClaim, ...])


def claims_file(name: str, folder: Path, where: str) -> Path:
    """``folder/<name>.yaml``.  Raises InputError where there is none; ``where`` is the key that gives the name."""
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in known:
        raise unknown_name("list of claims", name, known, where=where)
    return known[name]


def read_claims(path: Path) -> tuple[SourceClaim, ...]:
    """The claims of a file.  Raises InputError."""
    return check_claims(read_yaml(path, remedy="correct the list of claims"), str(path))


def check_claims(rows: Any, where: str) -> tuple[SourceClaim, ...]:
    """Plain data as claims; raises InputError, which names the claim, from 0, and its key."""
    try:
        claims = _CLAIMS.validate_python(rows)
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(map(str, first["loc"]))
        remedy = f"the keys of a claim: {', '.join(SourceClaim.model_fields)}"
        raise InputError(first["msg"], where=f"{where}:{key}", remedy=remedy) from None
    for number, claim in enumerate(claims):
        if found := _misfit(claim):
            key, what, remedy = found
            raise InputError(what, where=f"{where}:{number}.{key}", remedy=remedy)
    return claims


def _misfit(claim: SourceClaim) -> tuple[str, str, str] | None:
    """(key, what is wrong, what to do) of keys that don't go together; None where they do."""
    given = [way for way in _WAYS if getattr(claim, way)]
    if len(given) != 1:
        what = f"a claim has one of {', '.join(_WAYS)} (got {', '.join(given) or 'none'})"
        return given[-1] if given else "arm", what, "say what tests it: arms, a correlation, or what it would need"
    of_difference = bool(claim.arm)
    for key, belongs in {
        "outcome": of_difference, "direction": not claim.needs, "against": of_difference,
        "within": claim.direction == "same", "least": claim.sign != 0, "most": claim.sign != 0,
        "tuned": not claim.needs, "possible": claim.sign != 0,
    }.items():  # fmt: skip
        if getattr(claim, key) and not belongs:
            return key, f"'{key}' says nothing beside the other keys of this claim", "leave it out"
    required = {"outcome": of_difference, "direction": not claim.needs, "within": claim.direction == "same"}
    for key, wanted in required.items():
        if wanted and not getattr(claim, key):
            return key, "missing", "say which outcome, in which direction, and for 'same' within how many points"
    if claim.correlation and not claim.sign:
        return "direction", "a correlation is higher or lower than 0", "write 'higher' or 'lower'"
    if claim.least is not None and claim.most is not None and claim.least > claim.most:
        return "least", f"is above most ({claim.most:g})", "give the ends of the claimed size in order"
    if claim.against in claim.arm:
        return "against", f"'{claim.against}' would be compared with itself", "name two arms"
    return None


def plain_claims(claims: Sequence[SourceClaim]) -> list[dict[str, Any]]:
    """Claims as JSON can hold them, without what they leave out."""
    return [claim.model_dump(mode="json", exclude_defaults=True) for claim in claims]
