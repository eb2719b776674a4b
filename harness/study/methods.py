"""What a study asks of methods and their recipes: a few names and plain numbers.

Studies are planned below :mod:`harness.method`, whose ``Method`` and ``Recipe`` answer; nothing here knows a tensor.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol, Self

from pydantic import BaseModel

from harness.store.records import Between, Facts
from harness.study.inspection import Inspection


class AdapterLike(Protocol):
    """What is trained, as far as memory and words go."""

    @property
    def has_rank(self) -> bool:
        """Whether rank and alpha mean anything to it."""
        ...

    @property
    def puts_below(self) -> bool:
        """Whether something of its size lies below it from its start."""
        ...

    @property
    def reads_text(self) -> str | None:
        """The task whose unscored text its start looks at."""
        ...

    @property
    def takes_spectra(self) -> bool:
        """Whether its start looks at the SVDs of the base's matrices."""
        ...

    @property
    def inspects(self) -> Sequence[Inspection]:
        """What its start reads and decomposes beside these."""
        ...

    @property
    def vectors(self) -> Sequence[str]:
        """What is trained beside low-rank factors; with it the whole change has no low rank."""
        ...

    @property
    def dense_copies(self) -> float:
        """fp32 tensors of the adapted matrices' size that a row holds."""
        ...

    def room(self, shape: tuple[int, int]) -> int | None:
        """The largest rank that a matrix of this shape has directions for; None: any will do."""
        ...

    def trained_rank(self, rank: int) -> int | None:
        """The rank of its factors in an arm of this ``rank``; None: it trains full matrices."""
        ...


class AverageLike(Hashable, Protocol):
    @property
    def is_dense(self) -> bool:
        """Whether what is scored of it has no low rank."""
        ...

    @property
    def dense_copies(self) -> int: ...
    @property
    def spans_tasks(self) -> bool:
        """Whether it holds what each task so far has left."""
        ...


class UpdateLike(Protocol):
    @property
    def dense_copies(self) -> float: ...
    @property
    def takes_spectra(self) -> bool:
        """Whether it looks at the SVDs of the base's matrices."""
        ...

    @property
    def inspects(self) -> Sequence[Inspection]:
        """What it reads and decomposes at the ends of tasks."""
        ...

    def room(self, shape: tuple[int, int]) -> int | None:
        """The largest rank that a matrix of this shape has directions for; None: any will do."""
        ...


class LossLike(Protocol):
    """What a step takes: on which answers the loss is, and who else reads them."""

    @property
    def given(self) -> bool: ...
    @property
    def sampling(self) -> object | None: ...
    @property
    def teacher(self) -> str | None: ...
    @property
    def demonstration(self) -> str | None: ...


class RecipeLike(Protocol):
    """One method with one setting."""

    @property
    def adapter(self) -> AdapterLike | None:
        """None: nothing is trained."""
        ...

    @property
    def updates(self) -> Sequence[UpdateLike]: ...
    @property
    def average(self) -> AverageLike | None: ...
    @property
    def loss(self) -> LossLike: ...
    @property
    def between(self) -> Between | None:
        """What happens between tasks; None: what the study says."""
        ...

    @property
    def training_key(self) -> Hashable:
        """Equal keys train alike, so those trials train once."""
        ...

    @property
    def result_key(self) -> Hashable:
        """Equal keys train and score alike, at one rate."""
        ...

    @property
    def pack_key(self) -> Hashable:
        """Rows of one pack agree on this."""
        ...

    def under(self, between: Between) -> Self:
        """The same in a study that says this about what happens between tasks."""
        ...

    def facts(self, *, control: bool, study_between: Between) -> Facts:
        """What the record says of the arm."""
        ...


class MethodLike(Protocol):
    """A row of the registry."""

    @property
    def name(self) -> str: ...
    @property
    def settings(self) -> type[BaseModel]: ...
    @property
    def control(self) -> bool: ...
    @property
    def on_one_task(self) -> str: ...
    @property
    def compose(self) -> Any:
        """Resolved settings -> :class:`RecipeLike`."""
        ...
