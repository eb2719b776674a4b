"""Records in a third of their memory, for a report of ten thousand."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator, Hashable, Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from harness.store.intruders import ByLayer, ByType, Intruders
from harness.store.packed import Integers
from harness.store.records import Curve, TaskScores, TrialRecord

#: Of a spec: what is long, and the same in many trials.
LONG = ("parameters", "stream", "probes", "task_digests", "training", "scoring")
#: What stands in records without numbers by place.
NOWHERE: Mapping[type[ByLayer], ByLayer] = {kind: kind() for kind in (ByLayer, ByType)}

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)
M = TypeVar("M", bound=BaseModel)


@contextlib.contextmanager
def uncollected() -> Generator[None]:
    """Without looking for circles in what is made here, which has none: that would take half of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextlib.contextmanager
def settled() -> Generator[None]:
    """Without looking for circles in what is there already: again and again through ten thousand records."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Lean:
    """Makes records lean: without losses and items' correctness, and with one copy of what many records share."""

    def __init__(self) -> None:
        self._written: dict[str, object] = {}
        self._equal: dict[Hashable, object] = {}
        self._fields: dict[type, set[str]] = {}

    def __call__(self, record: TrialRecord) -> TrialRecord:
        spec = record.spec
        return self._with(
            record,
            spec=self._with(spec, **{name: self._alike(getattr(spec, name)) for name in LONG}),
            facts=self._alike(record.facts),
            stack=self._alike(record.stack),
            host=self._alike(record.host),
            sources=self._alike(record.sources),
            tasks=self._columns(record.tasks),
            probes=self._columns(record.probes),
            curves=tuple(map(self._curve, record.curves)),
            train_loss=(),
            intruders=tuple(taken and self._intruders(taken) for taken in record.intruders),
            costs=self._with(record.costs),
        )

    def _columns(self, columns: Mapping[str, TaskScores]) -> dict[str, TaskScores]:
        return {
            name: self._with(scores, score=self._numbers(scores.score), stderr=self._numbers(scores.stderr), correct=())
            for name, scores in columns.items()
        }

    def _curve(self, curve: Curve) -> Curve:
        return self._with(
            curve,
            examples=self._alike(curve.examples),
            score=self._numbers(curve.score),
            student=self._numbers(curve.student),
            tokens=self._alike(curve.tokens),
        )

    def _intruders(self, taken: Intruders) -> Intruders:
        return self._with(
            taken,
            by_epsilon=self._alike(taken.by_epsilon),
            undecided_by_epsilon=self._alike(taken.undecided_by_epsilon),
            by_type=self._places(taken.by_type),
            by_layer=self._places(taken.by_layer),
        )

    def _places(self, places: ByLayer) -> ByLayer:
        """Counts of nothing, and how many matrices there are, stand in many records."""
        if not len(places):
            return NOWHERE[type(places)]
        changes = {name: self._same(value) for name, value in places if isinstance(value, Integers)}
        return self._with(places, **changes)

    def _numbers(self, scores: tuple[float | None, ...]) -> tuple[float | None, ...]:
        """Shares of so many items are few numbers."""
        known: dict[Any, Any] = self._equal
        return tuple([known.setdefault(score, score) for score in scores])

    def _same(self, value: H) -> H:
        """The first that equals it; not for what equals values of another type, as a tuple of numbers may."""
        return cast(H, self._equal.setdefault(value, value))

    def _alike(self, value: T) -> T:
        """The first that is written the same."""
        return cast(T, self._written.setdefault(repr(value), value))

    def _with(self, model: M, /, **changes: Any) -> M:
        """A copy; which fields it was made with, a set as large as the rest of it, is kept once a type.

        Attributes that are set one by one, in one order, share the table of their names; a copied ``__dict__`` has one
        of its own, which is most of what a small model takes.
        """
        kind = type(model)
        made = kind.__new__(kind)
        for name, value in (model.__dict__ | changes).items():
            object.__setattr__(made, name, value)
        if kind not in self._fields:
            self._fields[kind] = set(kind.model_fields)
        object.__setattr__(made, "__pydantic_fields_set__", self._fields[kind])
        object.__setattr__(made, "__pydantic_extra__", None)
        object.__setattr__(made, "__pydantic_private__", None)
        return made
