"""Records in a third of their memory, for a report of ten thousand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from harness.store.intruders import Intruders
from harness.store.records import Curve, TaskScores, TrialRecord

#: Of a spec: what is long, and the same in many trials.
LONG = ("parameters", "stream", "probes", "task_digests", "training", "scoring")

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class Lean:
    """Makes records lean: without losses and items' correctness, and with one copy of what many records share."""

    def __init__(self) -> None:
        self._known: dict[str, object] = {}
        self._numbers: dict[float, float] = {}
        self._fields: dict[type, set[str]] = {}

    def __call__(self, record: TrialRecord) -> TrialRecord:
        spec = record.spec
        return self._with(
            record,
            spec=self._with(spec, **{name: self._shared(getattr(spec, name)) for name in LONG}),
            facts=self._with(record.facts),
            stack=self._shared(record.stack),
            host=self._shared(record.host),
            tasks=self._columns(record.tasks),
            probes=self._columns(record.probes),
            curves=tuple(map(self._curve, record.curves)),
            train_loss=(),
            intruders=tuple(taken and self._intruders(taken) for taken in record.intruders),
            costs=self._with(record.costs),
        )

    def _columns(self, columns: Mapping[str, TaskScores]) -> dict[str, TaskScores]:
        return {
            name: self._with(scores, score=self._same(scores.score), stderr=self._same(scores.stderr), correct=())
            for name, scores in columns.items()
        }

    def _curve(self, curve: Curve) -> Curve:
        return self._with(
            curve,
            examples=self._shared(curve.examples),
            score=self._same(curve.score),
            student=self._same(curve.student),
        )

    def _intruders(self, taken: Intruders) -> Intruders:
        return self._with(
            taken,
            by_epsilon=self._shared(taken.by_epsilon),
            by_type=self._with(taken.by_type),
            by_layer=self._with(taken.by_layer),
        )

    def _same(self, scores: tuple[Any, ...]) -> tuple[Any, ...]:
        """Shares of so many items are few numbers."""
        return tuple(None if score is None else self._numbers.setdefault(score, score) for score in scores)

    def _shared(self, value: T) -> T:
        return cast(T, self._known.setdefault(repr(value), value))

    def _with(self, model: M, /, **changes: Any) -> M:
        """A copy; which fields it was made with, a set as large as the rest of it, is kept once a type."""
        made = model.model_copy(update=changes)
        fields = self._fields.setdefault(type(model), set(type(model).model_fields))
        object.__setattr__(made, "__pydantic_fields_set__", fields)
        return made
