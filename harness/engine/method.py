"""The contract of a method: four parts, each a small typed value that knows how to work on many trials at once.

A **method** turns its settings into a :class:`Recipe`:

==============  =========================================  =======================================
part            what it decides                            examples
==============  =========================================  =======================================
adapter         which weights are trained                  :class:`LowRank`, ``None`` (nothing)
update rules    what happens beside AdamW                  Stable-LoRA's shrink
average         which mean of the weights is kept          EMA of the factors
loss            what is minimised                          :class:`CrossEntropy`, self-distillation
==============  =========================================  =======================================

A part describes one trial.  ``bind`` turns the parts of the K rows of a pack into one object that works on the stacked
tensors [K, ...]; rows without the part are passed as ``None`` and must not be touched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from harness.engine.adapters import AdapterBank
from harness.engine.losses import cross_entropy


class NoSettings(BaseModel):
    """For a method that has nothing to set; the root of all settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def resolved(self, steps_per_task: int) -> Self:
        """These settings with every default that depends on the study filled in, as the record shows them."""
        return self


class MethodSettings(NoSettings):
    """Hyper-parameters of a trained method.  A study may set each one to a value or to a list of values (a grid)."""

    learning_rate: float = Field(5e-4, gt=0, description="rate of AdamW after warm-up")


@dataclass(frozen=True)
class LowRank:
    """LoRA factors on every adapted matrix; rank, alpha and targets are the study's.  B starts at zero."""

    def scaling(self, rank: int, alpha: float) -> float:
        return alpha / rank


class BoundPart:
    """A part at work on the rows of one pack.  ``state`` holds every tensor that a later step depends on."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


class BoundUpdate(BoundPart):
    @abstractmethod
    def before_step(self, bank: AdapterBank, active: Tensor) -> None:
        """Change ``bank.values`` in place before AdamW does; the gradients are those of the values before this.

        ``active`` [K] is false for rows that have diverged.  No value may be read back to the host.
        """


class BoundAverage(BoundPart):
    values: Tensor  #: [N, P] in fp32, one row an average

    @abstractmethod
    def after_step(self, bank: AdapterBank) -> None:
        """Take in the values that the optimizer step has just made."""


class UpdateRule(ABC):
    @classmethod
    @abstractmethod
    def bind(cls, rules: Sequence[UpdateRule | None], bank: AdapterBank) -> BoundUpdate:
        """One rule a row of the bank; ``None`` leaves that row alone."""


class Average(ABC):
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

    Fields, or properties, of a subclass say what it needs.  All but ``demonstration`` must be in its ``pack_key``.
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
class Recipe:
    """One method with one setting, as four parts.  ``scored`` says whose weights count as the trial's result."""

    adapter: LowRank | None = LowRank()
    updates: tuple[UpdateRule, ...] = ()
    average: Average | None = None
    loss: Loss = CrossEntropy()
    scored: Literal["student", "average"] = "student"

    def __post_init__(self) -> None:
        if self.average is None and (self.scored == "average" or self.loss.teacher == "ema"):
            raise ValueError("a recipe that scores or distils from an average must keep one")
        if self.loss.sampling and not self.loss.teacher:
            raise ValueError("a loss on own answers needs a teacher: nobody else says what is good about them")
        if not (self.loss.given or self.loss.sampling):
            raise ValueError("a loss is on the given answers, on own answers, or on both")

    @property
    def training_key(self) -> tuple:
        """Equal keys train alike, so those trials train once: an average that is only scored does not count."""
        return (self.adapter, self.updates, self.average if self.loss.teacher == "ema" else None, self.loss)

    @property
    def pack_key(self) -> tuple:
        """Rows of one pack agree on this: same adapter shape, same kind of loss."""
        return (self.adapter, self.loss.pack_key)


@dataclass(frozen=True)
class Method:
    """A row of the registry: ``METHOD`` of a module in ``baselines`` or of a plug-in."""

    name: str
    summary: str  #: one line for ``lorabench methods``
    source: str  #: paper, with identifier
    compose: Callable[[Any], Recipe]  #: resolved settings -> recipe
    settings: type[NoSettings] = MethodSettings
