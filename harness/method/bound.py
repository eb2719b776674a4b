"""Parts at work: what the specifications of :mod:`harness.method.parts` become for the K rows of a pack.

``bind`` of a part makes one of these for all rows, on stacked tensors [K, ...]; the engine calls its hooks.  In a step
no value may be read back to the host.  Nothing here imports the engine or, before a row trains, torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from harness.errors import SettingError
from harness.method.lazy import torch
from harness.method.losses import cross_entropy
from harness.study.inspection import text_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from harness.analysis.intruders import Spectrum
    from harness.engine.activations import Activations
    from harness.engine.adapters import AdapterBank, DenseLayout, Layout, Slot
    from harness.engine.batches import Example
    from harness.engine.model.packed import PackedModel

AnyLayout = TypeVar("AnyLayout", bound="Layout | DenseLayout")


def check_room(rank: int, slot: Slot, room: int, what: str) -> None:
    """Raise SettingError for a rank that is larger than the ``room`` of a matrix, in directions that ``what`` names."""
    if rank > room:
        fits = f"set a rank of at most {room}, or leave" if room > 0 else "leave"
        raise SettingError(
            f"rank {rank} is larger than the {room} {what} of {slot.module} [{slot.out_features}, {slot.in_features}]",
            remedy=f"{fits} {slot.projection} out of adapter.targets",
            key="adapter.rank",
        )


@dataclass(frozen=True)
class Start(Generic[AnyLayout]):
    """What an adapter may look at to decide where one trial starts, with each task that starts afresh."""

    layout: AnyLayout  #: with what is frozen below this trial, as its only row
    scaling: float
    model: PackedModel
    spectra: Callable[[], Sequence[Spectrum]]  #: the SVD of every W0, in slot order
    examples: Sequence[Example]  #: of the task that begins, in the order in which the trial trains on them
    before: Tensor | None = None  #: [P]: where the task before has left the adapter; None with the first
    #: What every matrix reads, on the model as it is; what is read counts as tokens of the trial.
    inputs: Activations | None = None
    #: The unscored text of the task that ``Adapter.reads_text`` names, in an order from the trial's seed.
    text: Callable[[], Sequence[Example]] | None = None

    def moments(self, tokens: int, *, levelled: bool = False) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Second moments [n, n] of what slots read on so many tokens of the text (``Activations.moments``).

        0 tokens: as many as ``text_tokens`` says, as far as the text has them.  Raises SettingError where they are
        fewer than a matrix has inputs: they could not be a covariance.
        """
        assert self.inputs is not None, "the engine gives it"
        assert self.text is not None, "where reads_text names a task"
        widest = max(self.layout.slots, key=lambda slot: slot.in_features)
        wanted = text_tokens(tokens, widest.in_features)
        moments, seen = self.inputs.moments(self.text(), wanted, levelled=levelled)
        if seen < widest.in_features:
            raise SettingError(
                f"{seen} tokens of text are too short for the covariance of the {widest.in_features} inputs of "
                f"{widest.module}",
                remedy=f"set text_tokens to at least {widest.in_features}, or to 0 (six times as many), "
                "and a text that has them",
                key="text_tokens",
            )
        return moments

    def check_room(self, slot: Slot, room: int, what: str) -> None:
        """Raise SettingError where a matrix has less ``room`` than the adapter's rank, in directions of this kind."""
        check_room(getattr(self.layout, "rank", 0), slot, room, what)

    def negative_of(self, values: Tensor) -> Tensor:
        """[P]: what has to lie below ``values`` [P] so that both add up to nothing: -s B A, or minus a dense change."""
        return self.layout.scaled(values[None], torch.full((1,), -self.scaling, device=values.device))[0]


@dataclass(frozen=True)
class CurrentTask:
    """The task that begins or has ended, as parts see it."""

    position: int  #: in the stream; 0 for the first
    examples: Sequence[Sequence[Example]]  #: of each row, in the order in which it trains on them
    #: (examples of each row, equally many; the rows that ask) -> gradient [K, P] of their -log p(answer), summed over
    #: tokens, at the present values; what is read for those who ask counts as tokens of their trials.
    gradient: Callable[[Sequence[Sequence[Example]], Sequence[int]], Tensor]
    #: row -> what its matrices read, at the present values; what is read counts as tokens of the trial.
    inputs: Callable[[int], Activations] | None = None
    spectra: Callable[[], Sequence[Spectrum]] | None = None  #: the SVD of every W0, in slot order


class BoundPart:
    """A part at work on the rows of one pack.  ``state`` holds every tensor that a later step depends on.

    The two hooks are called before a task's first step and after its last; what they do is not part of a step, so they
    may read from the device.
    """

    def begin_task(self, bank: AdapterBank[Any], task: CurrentTask) -> None:
        """A task of the stream begins."""

    def end_task(self, bank: AdapterBank[Any], task: CurrentTask) -> None:
        """All its steps are done; the weights that it leaves behind are about to be scored."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


class BoundOptimizer(BoundPart, ABC):
    """Moves the weights by their gradient.  All tensors that it keeps of earlier steps are in ``state``."""

    #: [K, S]: rates of the S ``sections`` of the layout's columns relative to the row's rate; [K, 1]: one rate for all.
    ratios: Tensor

    @abstractmethod
    def step(self, bank: AdapterBank[Any], gradient: Tensor, rate: Tensor) -> None:
        """Change ``bank.values`` [K, P] in place by the clipped gradient [K, P], at the rates [K, S] of this step.

        In a row that is switched off, gradient and rate are 0; its values must stay, so whatever the rate multiplies
        has to be finite.
        """


class BoundUpdate(BoundPart):
    """What happens beside the optimizer; ``active`` [K] is false for rows that have diverged."""

    def penalise(self, bank: AdapterBank[Any], gradient: Tensor) -> None:
        """Add the gradient of a penalty to ``gradient`` [K, P] in place, before it is clipped.

        It lasts for this step alone, since the next may write over it: a rule that needs it later keeps a copy.
        """

    def before_step(self, bank: AdapterBank[Any], active: Tensor) -> None:
        """Change ``bank.values`` in place before the optimizer does; gradients are those of the values before this."""


class BoundAverage(BoundPart, ABC):
    values: Tensor  #: [N, P] in fp32, one row an average; other widths where ``result`` makes something of them

    @abstractmethod
    def after_step(self, bank: AdapterBank[Any]) -> None:
        """Take in the values that the optimizer step has just made; no gradient is kept of it."""

    def result(self, place: int, bank: AdapterBank[Any]) -> tuple[Layout | DenseLayout, Tensor]:
        """(layout, values [P]) of average number ``place``, without scaling and what is frozen below."""
        return bank.layout, self.values[place]

    def lost_energy(self, place: int, bank: AdapterBank[Any]) -> float | None:
        """The share of the average's squared norm that its result leaves out; None where it is the average itself."""
        return None


class BoundLoss(ABC):
    def __init_subclass__(cls) -> None:
        """What a class says of its ``tokens`` is not inherited by one that has others."""
        super().__init_subclass__()
        says = next(kind for kind in cls.__mro__ if "is_cross_entropy" in vars(kind))
        if says.tokens is not cls.tokens:
            cls.is_cross_entropy = BoundLoss.is_cross_entropy

    @abstractmethod
    def needs_teacher(self, progress: float) -> bool:
        """Whether a teacher pass is wanted at this share [0, 1) of the current task's steps.

        Own answers are sampled in those steps alone.
        """

    def is_cross_entropy(self, *, taught: bool) -> bool:
        """Whether :meth:`tokens`, with a teacher or without, is the cross-entropy alone: on a GPU a kernel has it.

        A class that writes its own ``tokens`` says so anew; else they are taken as they are written.
        """
        return False

    @abstractmethod
    def tokens(self, student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
        """Losses [n] for logits [n, V], targets [n], the row of the pack [n] and the position in the answer [n].

        The tokens are those of the given answers; ``teacher`` is None where no teacher pass was made on them.
        """

    def own_tokens(self, student: Tensor, teacher: Tensor, row: Tensor, position: Tensor) -> Tensor:
        """The same for tokens of the student's own answers; only for a loss with ``sampling``."""
        raise NotImplementedError(f"{type(self).__name__} has a sampling and no loss for what is sampled")


class BoundCrossEntropy(BoundLoss):
    def needs_teacher(self, progress: float) -> bool:
        return False

    def is_cross_entropy(self, *, taught: bool) -> bool:
        return True

    def tokens(self, student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
        return cross_entropy(student, target)
