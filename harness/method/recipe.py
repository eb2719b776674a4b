"""The contract of a method: settings in, a recipe out.

A **method** turns its settings into a :class:`Recipe`, which says what one trial does as five parts:

==============  =========================================  =======================================
part            what it decides                            examples
==============  =========================================  =======================================
adapter         which weights are trained, from where      :class:`LowRank`, dense, None (nothing)
optimizer       how a gradient moves them                  :class:`AdamW`, with rates by factor
update rules    what happens beside the optimizer          Stable-LoRA's shrink, EWC's penalty
average         which mean of the weights is kept          EMA of the factors
loss            what is minimised                          :class:`CrossEntropy`, self-distillation
==============  =========================================  =======================================

Beside them a recipe says which examples the trial sees (:class:`TaskExamples`) and what happens between tasks.

All of it is plain numbers: recipes are made and compared where studies are planned, without torch.  What parts become
when they train is in :mod:`harness.method.bound`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from harness.method.parts import (
    AdamW,
    Adapter,
    Average,
    CrossEntropy,
    Loss,
    LowRank,
    Optimizer,
    TaskExamples,
    UpdateRule,
)
from harness.store.records import Between, Facts


class NoSettings(BaseModel):
    """For a method that has nothing to set; the root of all settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    #: Settings that only refuse: within them no number moves, so there is nothing of them to tune.  Arms with different
    #: ones are trainings of their own all the same, or only the first one's limit would be looked at.
    limits: ClassVar[frozenset[str]] = frozenset()

    def resolved(self, steps_per_task: int) -> Self:
        """These settings with every default that depends on the study filled in, as the record shows them."""
        return self

    def check_stream(self, tasks: int) -> None:
        """Raise SettingError for a value that has no meaning on a stream of so many tasks."""

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        """The values that `lorabench tune` combines: those of the learning rate first, and of at most one more."""
        return {}


class MethodSettings(NoSettings):
    """Hyper-parameters of a trained method.  A study may set each one to a value or to a list of values (a grid)."""

    learning_rate: float = Field(5e-4, gt=0, description="rate of the optimizer after warm-up")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return {"learning_rate": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3)}


@dataclass(frozen=True)
class Recipe:
    """One method with one setting, as its parts.  ``scored`` says whose weights count as the trial's result."""

    adapter: Adapter | None = LowRank()
    optimizer: Optimizer = AdamW()
    updates: tuple[UpdateRule, ...] = ()
    average: Average | None = None
    loss: Loss = CrossEntropy()
    scored: Literal["student", "average"] = "student"
    examples: TaskExamples = TaskExamples()
    between: Between | None = None  #: what happens between tasks; None: what the study says

    def __post_init__(self) -> None:
        if self.average is None and (self.scored == "average" or self.loss.teacher == "ema"):
            raise ValueError("a recipe that scores or distils from an average must keep one")
        if self.loss.sampling and not self.loss.teacher:
            raise ValueError("a loss on own answers needs a teacher: nobody else says what is good about them")
        if not (self.loss.given or self.loss.sampling):
            raise ValueError("a loss is on the given answers, on own answers, or on both")

    def facts(self, *, control: bool, study_between: Between) -> Facts:
        """What the record says of an arm with this recipe, in a study with this regime between tasks."""
        trains = self.adapter is not None
        return Facts(
            trains=trains,
            sequential=self.examples.sequential and (self.between != "fresh" or self._scores_all_tasks),
            control=control,
            has_rank=self.adapter is not None and self.adapter.has_rank,
            between=(self.between or study_between) if trains else None,
            chooses_between=self.between is not None,
            scored=self.scored if trains else "base",
        )

    @property
    def _scores_all_tasks(self) -> bool:
        """Whether what counts is of all tasks so far, whatever becomes of the adapter that trains."""
        return self.scored == "average" and self.average is not None and self.average.spans_tasks

    @property
    def training_key(self) -> tuple[Any, ...]:
        """Equal keys train alike, so those trials train once: an average that is only scored does not count."""
        frozen = self.scored if self.between == "reinit" else None  # what is scored is what the next task stands on
        average = self.average if self.loss.teacher == "ema" or frozen == "average" else None
        return (self.adapter, self.optimizer, self.updates, average, self.loss, self.examples, self.between, frozen)

    @property
    def result_key(self) -> tuple[Any, ...]:
        """Equal keys train and score alike, at one rate: whatever else a setting changes, it changes no number."""
        return (self.training_key, self.scored, self.average if self.scored == "average" else None)

    def under(self, between: Between) -> Recipe:
        """This recipe in a study that says this about what happens between tasks."""
        return self if self.between else replace(self, between=between)

    @property
    def pack_key(self) -> tuple[Any, ...]:
        """Rows of one pack agree on this: the adapter's shape, the kinds of optimizer and loss, what they stand on."""
        adapter, stacks = self.adapter, self.between == "reinit"
        frozen = self.average.shape if stacks and self.scored == "average" and self.average else None
        # Where something lies on the base, no values of an adapter are the base.  So a teacher that is the base goes
        # without any, which only works for a whole pack.
        without = self.loss.teacher == "base" and (stacks or (adapter is not None and adapter.puts_below))
        return (
            adapter.shape if adapter else None,
            (type(self.optimizer), self.optimizer.pack_key),
            (type(self.loss), self.loss.pack_key),
            self.loss.teacher is not None,
            without,
            self.between,
            frozen,
        )


@dataclass(frozen=True)
class Method:
    """A row of the registry: ``METHOD`` of a module in ``baselines`` or of a plug-in."""

    name: str
    summary: str  #: one line for ``lorabench methods``
    source: str  #: paper, with identifier
    compose: Callable[[Any], Recipe]  #: resolved settings -> recipe
    settings: type[NoSettings] = MethodSettings
    control: bool = False  #: whether it is there to compare with (a bound, a reference), not as a remedy
    on_one_task: str = ""  #: what is left of it on a stream of one task, where that is not worth its name
