"""What a family of models bears, as a check at load finds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError

REMEDY = "choose another model; docs/models.md lists the families that are taken"


@dataclass(frozen=True)
class Verdict:
    """What a family bears, beside padded batches, adapters and a cache; ``refused`` says why it is not taken."""

    family: str
    decoder: str = ""  #: its name among the modules
    factor: float = 1.0  #: of the logits
    softcap: float | None = None  #: of the logits
    branches: bool = True  #: rows with a mask that is not causal: answers side by side behind their question
    shares: bool = True  #: a cache whose rows can be repeated, for prompts that begin alike, and dropped when done
    stays: bool = True  #: a cache with room for all that will be said, and numbers for a mask of what is there
    skips: bool = True  #: a last feed-forward layer that computes only the places that are read
    refused: str = ""
    why: str = ""  #: of what it does not bear

    def remark(self) -> str | None:
        """What a person should know of a family that is taken with less."""
        if self.branches:
            return None
        return (
            f"{self.family} is scored one request a row, which takes longer: answers side by side behind one question "
            f"would read each other ({self.why})"
        )

    def raise_if_refused(self, where: str) -> None:
        """Raises InputError, which names the family, what failed and by how much."""
        if self.refused:
            raise InputError(f"{self.family} is not taken: {self.refused}", where=where, remedy=REMEDY)


def place(path: Path) -> str:
    """Where a refused family is named, as errors say it."""
    return f"{path}/config.json:architectures"
