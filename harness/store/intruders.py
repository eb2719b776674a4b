"""Intruder dimensions in a record: numbers of the whole adapter, and packed arrays of them by place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PlainSerializer, WrapSerializer, model_validator

from harness.store.packed import Floats, Integers
from harness.store.values import Frozen, Score

NO_COUNTS, NO_VALUES = Integers.of(()), Floats.of(())


@dataclass(slots=True)  # frozen, it would take eight times as long to make, and a report makes half a million
class Part:
    """What was counted in the matrices of one place; by layer only what the figures show."""

    matrices: int
    count: int
    distance: float
    energy_share: float | None = None
    delta_norm: float | None = None
    relative_spectral_norm: float | None = None
    effective_rank: float | None = None


def _split(names: Any) -> Any:
    return _names(names) if isinstance(names, str) else names


@lru_cache(maxsize=1024)
def _names(text: str) -> tuple[str, ...]:
    """One copy for all records that have the same."""
    return tuple(text.split())


#: Names without spaces, one text in JSON.
Names = Annotated[tuple[str, ...], BeforeValidator(_split), PlainSerializer(" ".join)]


class ByLayer(Frozen):
    """Summaries of several places, one array a quantity over all of them: :class:`Intruders` says what each is."""

    names: Names = ()  #: of the places; every array has as many numbers
    matrices: Integers = NO_COUNTS
    count: Integers = NO_COUNTS
    distance: Floats = NO_VALUES

    @classmethod
    def of(cls, parts: Mapping[str, Mapping[str, Any]]) -> Self:
        """From a summary a place; what else these hold is left out."""
        if odd := [name for name in parts if name.split() != [name]]:
            raise ValueError(f"a name with spaces: {odd[0]!r}")
        empty = {name: cls.model_fields[name].default for name in _columns(cls)}
        columns = {name: kind.of(part[name] for part in parts.values()) for name, kind in empty.items()}
        return cls(names=tuple(parts), **columns)

    @model_validator(mode="after")
    def _as_long(self) -> Self:
        for name in _columns(type(self)):
            if len(values := getattr(self, name)) != len(self.names):
                raise ValueError(f"'{name}' has {len(values)} numbers for {len(self.names)} names")
        return self

    def get(self, name: str) -> Part | None:
        return self[name] if name in self.names else None

    def items(self) -> Iterator[tuple[str, Part]]:
        columns = (getattr(self, name).tolist() for name in _columns(type(self)))
        return ((name, Part(*numbers)) for name, *numbers in zip(self.names, *columns, strict=True))

    def __getitem__(self, name: str) -> Part:
        if name not in self.names:
            raise KeyError(name)
        at = self.names.index(name)
        return Part(**{column: getattr(self, column)[at] for column in _columns(type(self))})

    def __len__(self) -> int:
        return len(self.names)


@cache
def _columns(kind: type[ByLayer]) -> tuple[str, ...]:
    return tuple(name for name in kind.model_fields if name != "names")


class ByType(ByLayer):
    """The same, with all that a table has by type of projection."""

    energy_share: Floats = NO_VALUES
    delta_norm: Floats = NO_VALUES
    relative_spectral_norm: Floats = NO_VALUES
    effective_rank: Floats = NO_VALUES


#: Null in JSON where there is no place.
_NULL = (BeforeValidator(lambda value: {} if value is None else value),
         WrapSerializer(lambda value, dump: dump(value) if len(value) else None))  # fmt: skip


class Intruders(Frozen):
    """Intruder dimensions (arXiv 2410.21228) of the scored weights against the original W0, over all adapted matrices.

    ``count`` and ``by_epsilon`` are sums over the matrices; the others are means over them.
    ``by_type`` has the same of the matrices of each projection (``q_proj``), ``by_layer`` of those of each layer.
    """

    matrices: int
    count: int  #: top-k left singular vectors of W0 + dW with best |cosine| to any of W0's below 0.5
    distance: Score  #: mean over the top k of 1 - best |cosine|
    energy_share: Score  #: sigma^2 of the intruders over sigma^2 of the top k
    delta_norm: Score  #: ||dW||_F
    relative_spectral_norm: Score  #: ||dW||_2 / ||W0||_2
    effective_rank: Score  #: exp of the entropy of dW's normalised singular values; 0 where dW = 0
    by_epsilon: dict[str, int] = Field(default_factory=dict)  #: "0.1" ... "0.9" -> count
    count_low: int | None = None  #: what ``count`` is at least, proven; null in records older than the proof
    count_high: int | None = None  #: what it is at most; the same where every count is decided
    undecided: int = 0  #: matrices whose count is not: singular values, or a cosine and 0.5, equal to the last bits
    #: The same for other thresholds, where there are any.
    undecided_by_epsilon: dict[str, int] = Field(default_factory=dict)
    cosine_error: Score | None = None  #: largest proven bound on the error of a best |cosine|; 1 where undecided
    fallbacks: int = 0  #: matrices that the bounds left open, so that a full fp64 SVD was taken
    full_svds: int = (
        0  #: others decomposed whole: small or left open, of a dW without low rank; in older records all such
    )
    by_type: Annotated[ByType, *_NULL] = ByType()
    by_layer: Annotated[ByLayer, *_NULL] = ByLayer()  #: after a trial's last task; empty after the others

    @classmethod
    def of(cls, summary: Mapping[str, Any], *, by_layer: bool = True) -> Self:
        """From plain data, with one summary of the same keys a type and a layer."""
        return cls.model_validate(packed(summary, by_layer=by_layer))


def packed(summary: Mapping[str, Any], *, by_layer: bool) -> dict[str, Any]:
    """Plain data with a summary a type and a layer as what a record has: packed, and by layer only if wanted."""
    layers = summary.get("by_layer", {}) if by_layer else {}
    places = {"by_type": ByType.of(summary.get("by_type", {})), "by_layer": ByLayer.of(layers)}
    return {
        **summary,
        **{name: place.model_dump(mode="json") if len(place) else None for name, place in places.items()},
    }
