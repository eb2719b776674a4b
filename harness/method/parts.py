"""Parts of a recipe: small typed values that say what one trial does, as plain numbers.

A part that trains has ``bind``, which turns the parts of the K rows of a pack into one object that works on the stacked
tensors [K, ...] (:mod:`harness.method.bound`).  Planning a study needs no tensor, so it needs none of those, and
nothing here imports torch or the engine.

What rows of one pack must agree on stands in a part's ``shape`` or ``pack_key``; all else may differ by row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from harness.method.bound import BoundCrossEntropy
from harness.study.inspection import Inspection

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from harness.engine.adapters import AdapterBank
    from harness.engine.batches import Example
    from harness.method.bound import BoundAverage, BoundLoss, BoundOptimizer, BoundUpdate, Start

# -- adapters ---------------------------------------------------------------------------------------------------------

#: A vector beside the factors of a matrix with m rows: ``magnitude`` [m] is the length that every row of the whole is
#: to have (DoRA), ``scale`` [m] what every row is multiplied by, ``spectrum`` [rank] stands between B and A as singular
#: values do, in B diag(spectrum) A (OSF).
Vector = Literal["magnitude", "scale", "spectrum"]

#: A factor that may stay where it starts: A with LoRA-FA, B with MiCA.
Fixed = Literal["A", "B"]


@dataclass(frozen=True)
class Adapter(ABC):
    """Which numbers are trained, how they are scaled, and where they start."""

    vectors: ClassVar[tuple[Vector, ...]] = ()  #: trained beside low-rank factors; they start where ``start`` says
    puts_below: ClassVar[bool] = False  #: whether ``start`` returns what lies below the adapter as well
    takes_spectra: ClassVar[bool] = False  #: whether ``start`` looks at the SVDs of W0 (``Start.spectra``)

    @property
    def dense_copies(self) -> float:
        """fp32 tensors of the adapted matrices' size that a row holds (pack sizes)."""
        return 0.0

    @property
    def fixes(self) -> Fixed | None:
        """The factor that stays where it starts; None: all of them train."""
        return None

    @property
    def reads_text(self) -> str | None:
        """The task whose unscored text ``start`` looks at (``Start.text``); None: it needs none."""
        return None

    @property
    def inspects(self) -> tuple[Inspection, ...]:
        """What ``start`` reads and decomposes beside W0's own SVDs (forecasts)."""
        return ()

    @property
    @abstractmethod
    def rank_factor(self) -> float | None:
        """The rank of its factors over that of the arm; None: a full matrix is trained, and no factors."""

    @abstractmethod
    def scaling(self, rank: int, alpha: float) -> float:
        """The factor s of the trained change in W0 + s B A."""

    def start(self, drawn: Tensor, at: Start[Any]) -> Tensor | tuple[Tensor, Tensor]:
        """Where a trial starts, [P]: ``drawn`` (by the layout, from the trial's seed), or values made of it.

        With ``puts_below`` also what lies on the base below it and is not trained, [P], scaling included: with
        ``at.negative_of(values)`` the adapter starts as a part of W0 that is taken off the base.
        """
        return drawn

    @property
    def has_rank(self) -> bool:
        """Whether rank and alpha mean anything to it."""
        return self.rank_factor is not None

    @property
    def shape(self) -> tuple[Any, ...]:
        """What the adapters of one pack agree on."""
        return (self.rank_factor, self.vectors, self.puts_below)

    def room(self, shape: tuple[int, int]) -> int | None:
        """The largest rank that a matrix of this shape [m, n] has directions for; None: any will do."""
        return None

    def trained_rank(self, rank: int) -> int | None:
        """The rank of its factors in an arm of this ``rank``; None: it has no factors, or not of the arm's rank."""
        return None if self.rank_factor is None else round(self.rank_factor * rank)

    def factor_rank(self, rank: int, shapes: Sequence[tuple[int, int]]) -> int | None:
        """The rank of its factors on matrices of these shapes [m, n]; None: it trains full matrices."""
        return self.trained_rank(rank)


@dataclass(frozen=True)
class LowRank(Adapter):
    """LoRA factors on every adapted matrix; rank, alpha and targets are the arm's.  B starts at zero."""

    @property
    def rank_factor(self) -> float | None:
        return 1.0

    def scaling(self, rank: int, alpha: float) -> float:
        return alpha / rank


# -- optimizers and what goes with them -------------------------------------------------------------------------------


class Optimizer(ABC):
    """How a clipped gradient moves the weights.  Rows of one pack have one kind; its numbers may differ by row."""

    @property
    def pack_key(self) -> tuple[Any, ...]:
        """What rows of one pack agree on beyond the kind."""
        return ()

    @classmethod
    @abstractmethod
    def bind(cls, optimizers: Sequence[Self], bank: AdapterBank[Any], weight_decay: float) -> BoundOptimizer:
        """One optimizer a row of the bank, all of this class, at its start; ``weight_decay`` is the study's."""


@dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW as torch defines it, with rates by factor."""

    b_ratio: float = 1.0  #: rate of B, and of vectors beside it, over that of A (LoRA+)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    @property
    def pack_key(self) -> tuple[Any, ...]:
        return (self.betas, self.eps)

    @classmethod
    def bind(  # pyright: ignore[reportIncompatibleMethodOverride]  # every kind takes rows of its kind alone
        cls, optimizers: Sequence[Self], bank: AdapterBank[Any], weight_decay: float
    ) -> BoundOptimizer:
        from harness.method.adamw import BoundAdamW

        return BoundAdamW(optimizers, bank, weight_decay)


class UpdateRule(ABC):
    """What happens beside the optimizer: penalties on the gradient, changes of the weights before a step."""

    spans_tasks: ClassVar[bool] = False  #: whether what it holds goes on where the adapters start afresh
    takes_spectra: ClassVar[bool] = False  #: whether it looks at the SVDs of W0 (``CurrentTask.spectra``)

    @property
    def inspects(self) -> tuple[Inspection, ...]:
        """What it reads and decomposes at the ends of tasks (forecasts)."""
        return ()

    @property
    def dense_copies(self) -> float:
        """fp32 tensors of the adapted matrices' size that a row's rule holds (pack sizes)."""
        return 0.0

    def room(self, shape: tuple[int, int]) -> int | None:
        """The largest rank that the rule finds directions for in a matrix of this shape [m, n]; None: any will do."""
        return None

    @classmethod
    @abstractmethod
    def bind(cls, rules: Sequence[Self | None], bank: AdapterBank[Any]) -> BoundUpdate:
        """One rule a row of the bank; None leaves that row alone."""


class Average(ABC):
    """Which mean of the weights is kept."""

    dense_copies: ClassVar[int] = 0  #: fp32 tensors of the adapted matrices' size that one average holds
    #: Whether it follows its student from step to step; else it is not late, and has no lag to be checked.
    follows: ClassVar[bool] = True
    #: Whether it is one of all tasks: it goes on where the adapters start afresh, and holds what each task left.
    spans_tasks: ClassVar[bool] = False

    @property
    def is_dense(self) -> bool:
        """Whether what is scored has no low rank: it holds dense copies, and is not cut to a ``rank`` of its own."""
        return bool(self.dense_copies) and not getattr(self, "rank", 0)

    @property
    def shape(self) -> tuple[Any, ...] | None:
        """The shape of the result, or None where it is the adapter's; rows of a pack that freeze it agree on it."""
        return None

    @classmethod
    @abstractmethod
    def bind(cls, averages: Sequence[Self], rows: Sequence[int], bank: AdapterBank[Any]) -> BoundAverage:
        """``averages[i]`` follows row ``rows[i]`` of the bank; a row may have several, or none."""


# -- losses -----------------------------------------------------------------------------------------------------------

#: Whose logits a student learns from: the base (no adapter), the student at the start of the task, the recipe's
#: average, or the student as it is.  No teacher has a gradient.
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
    """Per-token loss on answer tokens.

    Fields, or properties, of a subclass say what it needs.  All but ``teacher`` and ``demonstration``, which may differ
    by row where all rows have a teacher or all lack one, must be in its ``pack_key``.
    """

    given: bool = True  #: whether the given answers are in the loss
    sampling: Sampling | None = None  #: how the student's own answers are drawn; None: they aren't in the loss
    teacher: Teacher | None = None
    demonstration: str | None = None  #: the teacher's prompt, with {prompt} and {demonstration}; None: the student's

    @property
    def pack_key(self) -> tuple[Any, ...]:
        """What rows of one pack agree on beyond the kind."""
        return ()

    @classmethod
    @abstractmethod
    def bind(cls, losses: Sequence[Self], device: torch.device) -> BoundLoss:
        """One loss a row of the pack."""


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-log p(answer token), the loss of plain fine-tuning."""

    @classmethod
    def bind(  # pyright: ignore[reportIncompatibleMethodOverride]  # every kind takes rows of its kind alone
        cls, losses: Sequence[Self], device: torch.device
    ) -> BoundLoss:
        return BoundCrossEntropy()


# -- examples ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskExamples:
    """Which examples a trial sees: those of the task it is at.  Subclasses choose among all tasks of the stream."""

    sequential: ClassVar[bool] = True  #: whether the examples of a task are seen while the trial is at that task

    def choose(self, position: int, drawn: Callable[[int], list[Example]], seeds: Sequence[int]) -> list[Example]:
        """The examples for the task at this ``position`` of the stream, in order, as many as ``drawn(position)``.

        ``drawn(i)`` are those that a sequential trial of this seed sees of task i; ``seeds`` has the trial's seed
        for each task, so that a choice depends on no other trial.
        """
        return drawn(position)
