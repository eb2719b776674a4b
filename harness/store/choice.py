"""Which trials are meant: by the beginning of a fingerprint, or by arm, order and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from harness.errors import InputError, unknown_name
from harness.store.records import TrialSpec

#: Trials that a message names; more of them are counted.
MOST = 6


class HasSpec(Protocol):
    """A record, or a planned trial."""

    @property
    def spec(self) -> TrialSpec: ...
    @property
    def fingerprint(self) -> str: ...


T = TypeVar("T", bound=HasSpec)


@dataclass(frozen=True)
class Choice:
    """What trials must be; an empty text and None are anything."""

    beginning: str = ""  #: of the fingerprint
    arm: str | None = None
    order: str | None = None
    seed: int | None = None

    @property
    def is_empty(self) -> bool:
        return self == Choice()

    def among(self, trials: Sequence[T]) -> list[T]:
        """The trials that are meant.  Raises InputError for an arm, an order or a seed that none of them has."""
        for flag, wanted, known in (
            ("arm", self.arm, [trial.spec.arm for trial in trials]),
            ("order", self.order, [trial.spec.order for trial in trials]),
        ):
            if wanted is not None and trials and wanted not in known:
                raise unknown_name(flag, wanted, set(known), where=f"--{flag}")
        seeds = sorted({trial.spec.seed for trial in trials})
        if self.seed is not None and seeds and self.seed not in seeds:
            known = ", ".join(map(str, seeds))
            raise InputError(f"there is no trial of seed {self.seed}", where="--seed", remedy=f"seeds: {known}")
        return [trial for trial in trials if self._means(trial)]

    def _means(self, trial: HasSpec) -> bool:
        spec = trial.spec
        return (
            trial.fingerprint.startswith(self.beginning)
            and self.arm in (None, spec.arm)
            and self.order in (None, spec.order)
            and self.seed in (None, spec.seed)
        )

    def one(self, trials: Sequence[T], where: str) -> T:
        """The trial that is meant; ``where`` is the place they come from.

        Raises InputError where it is none or several, with what tells the several apart.
        """
        found = self.among(trials)
        if len(found) == 1:
            return found[0]
        said = f"begin with '{self.beginning}'" if self.beginning else f"are of {self}"
        remedy = "list them: lorabench trials STUDY"
        if found:
            found = sorted(found, key=lambda trial: (trial.spec.arm, trial.spec.order, trial.spec.seed))
            more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
            remedy = f"say which: {'; '.join(map(name_of, found[:MOST]))}{more}"
        raise InputError(f"{len(found)} trials {said}", where=where, remedy=remedy)

    def __str__(self) -> str:
        parts = (("arm", self.arm), ("order", self.order), ("seed", self.seed), ("trial", self.beginning or None))
        return ", ".join(f"{name} {value}" for name, value in parts if value is not None) or "anything"


def name_of(trial: HasSpec) -> str:
    """``lora, order a, seed 0 (0123456789ab)``."""
    return f"{trial.spec.arm}, order {trial.spec.order}, seed {trial.spec.seed} ({trial.fingerprint[:12]})"
