"""The contract of a method: four parts, each a small typed value that knows how to work on many trials at once.

A **method** turns its settings into a :class:`Recipe`:

==============  =========================================  =======================================
part            what it decides                            examples
==============  =========================================  =======================================
adapter         which weights are trained, from where      :class:`LowRank`, dense, ``None`` (nothing)
update rules    what happens beside AdamW                  Stable-LoRA's shrink, EWC's penalty
average         which mean of the weights is kept          EMA of the factors
loss            what is minimised                          :class:`CrossEntropy`, self-distillation
==============  =========================================  =======================================

Beside them a recipe says which examples the trial sees (:class:`OwnTask`) and what happens between tasks.

A part describes one trial.  ``bind`` turns the parts of the K rows of a pack into one object that works on the stacked
tensors [K, ...]; rows without the part are passed as ``None`` and must not be touched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from harness.analysis.intruders import Spectrum
from harness.engine.adapters.bank import AdapterBank
from harness.engine.adapters.layout import DenseLayout, Layout, Slot
from harness.engine.batches import Example
from harness.engine.model.packed import PackedModel
from harness.method.losses import cross_entropy
from harness.store.records import Between, Facts


class NoSettings(BaseModel):
    """For a method that has nothing to set; the root of all settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def resolved(self, steps_per_task: int) -> Self:
        """These settings with every default that depends on the study filled in, as the record shows them."""
        return self

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        """The values that `lorabench tune` combines: those of the learning rate first, and of at most one more."""
        return {}


class MethodSettings(NoSettings):
    """Hyper-parameters of a trained method.  A study may set each one to a value or to a list of values (a grid)."""

    learning_rate: float = Field(5e-4, gt=0, description="rate of AdamW after warm-up")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return {"learning_rate": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3)}


@dataclass(frozen=True)
class Start:
    """What an adapter may look at to decide where one trial starts."""

    layout: Layout | DenseLayout  #: with what is frozen below this trial, as its only row
    scaling: float
    model: PackedModel
    spectra: Callable[[], Sequence[Spectrum]]  #: the SVD of every W0, in slot order
    examples: Sequence[Example] = ()  #: of the task that begins, where the adapter needs them


@dataclass(frozen=True)
class Adapter(ABC):
    """Which numbers are trained, how they are laid out and scaled, and where they start.

    Rows of one pack have adapters of equal ``shape``; scaling and start may differ by row.
    """

    needs_examples: ClassVar[bool] = False  #: whether ``start`` looks at the examples of the task that begins
    taken_off: ClassVar[bool] = False  #: whether what it starts with is taken off the base, so that both add up to W0
    dense_copies: ClassVar[int] = 0  #: fp32 tensors of the adapted matrices' size that a row holds (pack sizes)

    @property
    def has_rank(self) -> bool:
        """Whether rank and alpha mean anything to it."""
        return self.dense_copies == 0

    @property
    @abstractmethod
    def shape(self) -> tuple:
        """What rows of one pack agree on."""

    @abstractmethod
    def layout(self, slots: tuple[Slot, ...], rank: int) -> Layout | DenseLayout:
        """How the trained numbers of one trial are laid out; ``rank`` is the arm's."""

    @abstractmethod
    def scaling(self, rank: int, alpha: float) -> float:
        """The factor s of the trained change in W0 + s B A."""

    def start(self, drawn: Tensor, at: Start) -> Tensor:
        """Where a trial starts, [P]: ``drawn`` (the layout's own for its seed), or what is made of it."""
        return drawn


@dataclass(frozen=True)
class LowRank(Adapter):
    """LoRA factors on every adapted matrix; rank, alpha and targets are the arm's.  B starts at zero."""

    @property
    def shape(self) -> tuple:
        return ("low rank", self.taken_off, 1.0)

    def layout(self, slots: tuple[Slot, ...], rank: int) -> Layout | DenseLayout:
        return Layout(slots, rank)

    def scaling(self, rank: int, alpha: float) -> float:
        return alpha / rank


@dataclass(frozen=True)
class Task:
    """The task that begins or has ended, as parts see it; one entry a row of the pack."""

    number: int  #: 0 for the first of the stream
    examples: Sequence[Sequence[Example]]  #: of each row, in the order in which it trains on them
    #: (examples of each row) -> gradient [K, P] of their -log p(answer), summed over tokens, at the present values.
    gradient: Callable[[Sequence[Sequence[Example]]], Tensor]


class BoundPart:
    """A part at work on the rows of one pack.  ``state`` holds every tensor that a later step depends on.

    The two hooks are called before a task's first step and after its last; what they do is not part of a step, so they
    may read from the device.
    """

    def begin_task(self, bank: AdapterBank, task: Task) -> None:
        """A task of the stream begins."""

    def end_task(self, bank: AdapterBank, task: Task) -> None:
        """All its steps are done; what it has left behind is about to be scored."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


class BoundUpdate(BoundPart):
    """No value may be read back to the host in either method; ``active`` [K] is false for rows that have diverged."""

    def penalise(self, bank: AdapterBank, gradient: Tensor) -> None:
        """Add the gradient of a penalty to ``gradient`` [K, P] in place, before it is clipped."""

    def before_step(self, bank: AdapterBank, active: Tensor) -> None:
        """Change ``bank.values`` in place before AdamW does; the gradients are those of the values before this."""


class BoundAverage(BoundPart):
    values: Tensor  #: [N, P] in fp32, one row an average

    @abstractmethod
    def after_step(self, bank: AdapterBank) -> None:
        """Take in the values that the optimizer step has just made."""

    def result(self, place: int, bank: AdapterBank) -> tuple[Layout | DenseLayout, Tensor]:
        """(layout, values [P]) of average number ``place``, without scaling and what is frozen below."""
        return bank.layout, self.values[place]

    def lost_energy(self, place: int, bank: AdapterBank) -> float | None:
        """The share of the average's squared norm that its result leaves out; none where it is the average itself."""
        return None


class UpdateRule(ABC):
    @classmethod
    @abstractmethod
    def bind(cls, rules: Sequence[UpdateRule | None], bank: AdapterBank) -> BoundUpdate:
        """One rule a row of the bank; ``None`` leaves that row alone."""


class Average(ABC):
    dense_copies: ClassVar[int] = 0  #: fp32 tensors of the adapted matrices' size that one average holds

    @property
    def shape(self) -> tuple | None:
        """Of what it averages to, where that is not the adapter's own: none of the rows of a pack may differ in it."""
        return None

    @classmethod
    @abstractmethod
    def bind(cls, averages: Sequence[Average], rows: Sequence[int], bank: AdapterBank) -> BoundAverage:
        """``averages[i]`` follows row ``rows[i]`` of the bank; a row may have several, or none."""


#: Whose logits a student learns from: the base (no adapter), the student at the start of the task, the recipe's
#: average, or the student as it is.  None has a gradient.
Teacher = Literal["base", "snapshot", "ema", "live"]


@dataclass(frozen=True)
class Sampling:
    """How a student answers its own prompts: one sample each, over the whole vocabulary; temperature 0 is greedy.

    An answer ends as the given ones do: with the end token, where that is in them, and then after at most
    ``max_tokens``; else (multiple choice) at the length of the given answer, which is what gets scored.
    """

    temperature: float = 1.0
    max_tokens: int = 16


class Loss(ABC):
    """Per-token loss on answer tokens.  Rows of a pack share ``pack_key``; the rest may differ by row.

    Fields, or properties, of a subclass say what it needs.  All but ``teacher`` and ``demonstration``, which may differ
    by row where every row has a teacher or none has, must be in its ``pack_key``.
    """

    given: bool = True  #: whether the given answers are in the loss
    sampling: Sampling | None = None  #: how the student's own answers are drawn; none: they aren't in the loss
    teacher: Teacher | None = None
    demonstration: str | None = None  #: the teacher's prompt, with {prompt} and {demonstration}; none: the student's

    @property
    def pack_key(self) -> tuple:
        return (type(self).__name__,)

    @classmethod
    @abstractmethod
    def bind(cls, losses: Sequence[Loss], device: torch.device) -> BoundLoss:
        """One loss a row of the pack."""


class BoundLoss(ABC):
    @abstractmethod
    def needs_teacher(self, progress: float) -> bool:
        """Whether a teacher pass is wanted at this share [0, 1) of the current task's steps.

        Own answers are sampled in those steps alone.
        """

    @abstractmethod
    def tokens(self, student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
        """Losses [n] for logits [n, V], targets [n], the row of the pack [n] and the position in the answer [n].

        The tokens are those of the given answers; ``teacher`` is none where no teacher pass was made on them.
        """

    def own_tokens(self, student: Tensor, teacher: Tensor, row: Tensor, position: Tensor) -> Tensor:
        """The same for tokens of the student's own answers; only for a loss with ``sampling``."""
        raise NotImplementedError(f"{type(self).__name__} has a sampling and no loss for what is sampled")


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-log p(answer token), the loss of plain fine-tuning."""

    @classmethod
    def bind(cls, losses: Sequence[Loss], device: torch.device) -> BoundLoss:
        return _BoundCrossEntropy()


class _BoundCrossEntropy(BoundLoss):
    def needs_teacher(self, progress: float) -> bool:
        return False

    def tokens(self, student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
        return cross_entropy(student, target)


@dataclass(frozen=True)
class OwnTask:
    """Which examples a trial sees: those of the task it is at.  Subclasses choose among all tasks of the stream."""

    @property
    def sequential(self) -> bool:
        """Whether the examples of a task are seen while the trial is at that task."""
        return type(self).__name__ != "Union"

    def choose(self, stage: int, drawn: Callable[[int], list[Example]], seeds: Sequence[int]) -> list[Example]:
        """The examples of task number ``stage``, in order, as many as ``drawn(stage)``.

        ``drawn(i)`` are those that a sequential trial of this seed sees of task i; ``seeds`` has the trial's own seed
        for each task, so that a choice depends on no other trial.
        """
        return drawn(stage)


@dataclass(frozen=True)
class Recipe:
    """One method with one setting, as four parts.  ``scored`` says whose weights count as the trial's result."""

    adapter: Adapter | None = LowRank()
    updates: tuple[UpdateRule, ...] = ()
    b_rate_ratio: float = 1.0  #: learning rate of B over that of A (LoRA+)
    average: Average | None = None
    loss: Loss = CrossEntropy()
    scored: Literal["student", "average"] = "student"
    examples: OwnTask = OwnTask()
    between: Between | None = None  #: what happens between tasks; none: what the study says

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
            sequential=self.examples.sequential and self.between != "fresh",
            control=control,
            has_rank=self.adapter is not None and self.adapter.has_rank,
            between=(self.between or study_between) if trains else None,
            chooses_between=self.between is not None,
            scored=self.scored if trains else "base",
        )

    @property
    def training_key(self) -> tuple:
        """Equal keys train alike, so those trials train once: an average that is only scored does not count."""
        frozen = self.scored if self.between == "reinit" else None  # what is scored is what the next task stands on
        average = self.average if self.loss.teacher == "ema" or frozen == "average" else None
        return (
            self.adapter, self.updates, self.b_rate_ratio, average, self.loss, self.examples, self.between, frozen
        )  # fmt: skip

    def under(self, between: Between) -> Recipe:
        """This recipe in a study that says this about what happens between tasks."""
        return self if self.between else replace(self, between=between)

    @property
    def pack_key(self) -> tuple:
        """Rows of one pack agree on this: same adapter shape, same kind of loss."""
        shape = self.adapter.shape if self.adapter else None
        stacks = self.between == "reinit"
        frozen = self.average.shape if stacks and self.scored == "average" and self.average else None
        # Where something is frozen on the base, no values of an adapter are the base: such teachers go without any.
        bare = self.loss.teacher == "base" and (stacks or (self.adapter is not None and self.adapter.taken_off))
        return (shape, self.loss.pack_key, self.loss.teacher is not None, bare, self.between, frozen)


@dataclass(frozen=True)
class Method:
    """A row of the registry: ``METHOD`` of a module in ``baselines`` or of a plug-in."""

    name: str
    summary: str  #: one line for ``lorabench methods``
    source: str  #: paper, with identifier
    compose: Callable[[Any], Recipe]  #: resolved settings -> recipe
    settings: type[NoSettings] = MethodSettings
    alone: str = ""  #: what is left of it on a stream of one task, where that is not worth its name

    @property
    def control(self) -> bool:
        """Whether it is there to compare with, not as a remedy."""
        return self.source.startswith("control")
