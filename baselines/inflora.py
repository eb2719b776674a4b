"""InfLoRA (Liang & Li, arXiv 2404.00228): a new LoRA for each task, reading what earlier tasks' inputs leave free.

    W = W0 + s (B_1 A_1 + ... + B_t A_t),  only B_t trains

For every matrix, with C_t the second moments of what it reads on the task's training examples and M [n, d] an
orthonormal basis of what it has read on earlier ones:

    before a task   A_t = the r largest left singular vectors of (I - M M^T) C_t, over sqrt(3), and fixed; fewer, and
                    rows of zeros, which never train, where M leaves fewer than r directions free
    after it        C_t again, on the trained model; M takes on the largest left singular vectors of (I - M M^T) C_t,
                    as many as it takes until M holds ``threshold`` of the sum of C_t's squared singular values

so B_t A_t gives nothing for inputs in the span of M.  The published code is what is meant: C (not X) is decomposed,
and the values that count are C's, squared, so fourth powers of what is read.  That is no share of a task's inputs:
what a language model reads has one direction that outweighs all others by far, and 0.95 of these squares may be that
one alone.  Of SmolLM2-135M's inputs on ``bbc_topics`` (four matrices of each of four layers) M then has 1 direction in
11 of 16 cases, with 31 to 83 % of the inputs' energy, and the arm hardly protects anything.  A threshold of 0.99 makes
it 1 to 160 of 576 or 1,536, 0.999 1 to 510, 0.9999 5 to 934 (and up to 511 of 576 after four tasks
of `core`): which of them is good is for ``tune`` to find.

So a threshold that holds much may leave nothing free, early in a long stream.  The published code has no rule for that:
it goes on with whatever vectors a decomposition gives for what is 0 but for rounding, some of them inside M, where they
overwrite what they are to protect.  Here a matrix without free directions learns nothing more, and the trial goes on:
that is what such a threshold costs, it shows in learning accuracy and in ``trained_parameters`` (those of the last
task), and a lower ``threshold`` or rank is the remedy.  Only a rank larger than a matrix's inputs is refused.

What deviates: M is held as one basis (the code holds its complement instead where that is smaller, with the same
projection), the threshold stays where it is (the code lets it grow to 1 with the tasks, from 0.95 or 0.98), C is taken
from the first ``input_tokens`` tokens of a task's examples, and all projections are adapted, not keys and values
alone.  What is read counts as tokens of the trial; the decompositions take some 50 seconds of one core a task with all
matrices of SmolLM2-135M.  On a stream of one task it is LoRA with a fixed A that its inputs chose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from baselines.lora_fa import FixedA
from harness.method import (
    BoundUpdate,
    CurrentTask,
    Inspection,
    Method,
    MethodSettings,
    Recipe,
    UpdateRule,
    check_room,
    eigen,
)
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank, Layout


@dataclass(frozen=True)
class FreeInputs(UpdateRule):
    """Points every new A to inputs that earlier tasks leave free, and remembers those of each task."""

    threshold: float
    tokens: int

    spans_tasks: ClassVar[bool] = True

    @property
    def dense_copies(self) -> float:
        return 2.0  # a basis [n, at most n] of every group of matrices with one input, and what is made of it

    @property
    def inspects(self) -> tuple[Inspection, ...]:
        # A basis takes two products of n^3 more, from the second task on; a large one leaves less to decompose.
        return (
            Inspection("begin", "tokens", self.tokens, inputs=eigen.FEW + 2),
            Inspection("end", "tokens", self.tokens, inputs=eigen.ALL + 2),
        )

    def room(self, shape: tuple[int, int]) -> int:
        return shape[1]

    @classmethod
    def bind(cls, rules: Sequence[Self | None], bank: AdapterBank[Layout]) -> BoundUpdate:
        return _BoundFreeInputs(rules, bank)


class _BoundFreeInputs(BoundUpdate):
    def __init__(self, rules: Sequence[FreeInputs | None], bank: AdapterBank[Layout]) -> None:
        self.rules, self.device = list(rules), bank.values.device
        self.widths = [slot.in_features for slot in bank.layout.slots]
        #: Of each row, of each slot: the basis M [n, d].  Matrices that read the same share one.
        self.bases = [[torch.zeros(width, 0, device=self.device) for width in self.widths] for _ in rules]

    def begin_task(self, bank: AdapterBank[Layout], task: CurrentTask) -> None:
        rank = bank.layout.rank
        for slot in bank.layout.slots:
            check_room(rank, slot, slot.in_features, "inputs")
        pairs = bank.layout.split(bank.values)
        for row, _, readers, moment in self._moments(task):
            vectors, _ = directions(self.bases[row][readers[0]], moment, rank)
            for a in (pairs[i][0][row] for i in readers):
                a.zero_()
                a[: vectors.shape[1]] = vectors.mT / 3**0.5

    def end_task(self, bank: AdapterBank[Layout], task: CurrentTask) -> None:
        for row, rule, readers, moment in self._moments(task):
            basis = grown(self.bases[row][readers[0]], moment, rule.threshold)
            for i in readers:
                self.bases[row][i] = basis

    def _moments(self, task: CurrentTask) -> Iterator[tuple[int, FreeInputs, tuple[int, ...], Tensor]]:
        """(row, rule, slots that read the same, second moments of it on the task's examples) of the rows with a rule.

        They are read one after the other, while what A is changes: with B = 0 nothing of it reaches the next.
        """
        assert task.inputs is not None, "the engine gives it"
        for row, rule in enumerate(self.rules):
            if rule is not None:
                for readers, moment in task.inputs(row).moments(task.examples[row], rule.tokens)[0]:
                    yield row, rule, readers, moment.nan_to_num_(0.0, 0.0, 0.0)  # of one that has diverged

    def state(self) -> dict[str, Tensor]:
        """Every basis once, one after the other, and how wide they are; a width of -1: that of the slot before."""
        flat, counts = [torch.zeros(0, device=self.device)], []
        for bases in self.bases:
            for i, basis in enumerate(bases):
                again = i > 0 and basis is bases[i - 1]
                counts.append(-1 if again else basis.shape[1])
                flat += [] if again else [basis.flatten()]
        return {"bases": torch.cat(flat), "counts": torch.tensor(counts).view(len(self.bases), -1)}

    def load(self, state: dict[str, Tensor]) -> None:
        flat, done = state["bases"].to(self.device), 0
        for bases, counts in zip(self.bases, state["counts"].tolist(), strict=True):
            for i, (width, count) in enumerate(zip(self.widths, counts, strict=True)):
                if count < 0:
                    bases[i] = bases[i - 1]
                else:
                    bases[i], done = flat[done : done + width * count].view(width, count).clone(), done + width * count


def directions(basis: Tensor, moment: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(left singular vectors [n, count], squares of their values [count]) of (I - M M^T) C, the largest first.

    M [n, d] is the basis; there are n - d at most.  They are taken among the directions orthogonal to it, in fp64:
    those of what is 0 but for rounding would lie anywhere.
    """
    if not basis.shape[1]:
        values, vectors = eigen.largest(moment.double(), count)
        return vectors.float(), values.clamp(min=0).square()
    free = torch.linalg.qr(basis.double(), mode="complete")[0][:, basis.shape[1] :]
    rest = free.mT @ moment.double()
    squares, vectors = eigen.largest(rest @ rest.mT, count)
    return (free @ vectors).float(), squares.clamp(min=0)


def grown(basis: Tensor, moment: Tensor, threshold: float) -> Tensor:
    """The basis with the largest directions beside it, until it holds the threshold's share of the moment.

    As published, a first basis leaves out the direction with which it would pass the threshold, and has one at least.
    """
    vectors, squares = directions(basis, moment, len(basis))
    if not len(squares):
        return basis
    held = 1 - (squares.sum() - squares.cumsum(0)) / moment.double().square().sum()  # with so many more, and one
    below = int((held < threshold).sum())
    if not basis.shape[1]:
        return vectors[:, : max(below, 1)]
    more = 0 if held[0] - squares[0] / moment.double().square().sum() >= threshold else below + 1
    return torch.cat([basis, vectors[:, : min(more, len(basis) - basis.shape[1])]], 1)


class Settings(MethodSettings):
    threshold: float = Field(
        0.95, gt=0, le=1, description="share of the moments' squared singular values that M holds of each task"
    )
    input_tokens: int = Field(4096, ge=1, description="tokens of a task's examples from which inputs are taken")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return super().grid(steps_per_task) | {"threshold": (0.95, 0.99, 0.999, 0.9999)}


def compose(settings: Settings) -> Recipe:
    rule = FreeInputs(settings.threshold, settings.input_tokens)
    return Recipe(adapter=FixedA(), updates=(rule,), between="reinit")


METHOD = Method(
    name="inflora",
    summary="InfLoRA: a new adapter for each task, reading what earlier tasks' inputs leave free",
    source="arXiv 2404.00228",
    settings=Settings,
    compose=compose,
    on_one_task="LoRA with a fixed A",
)
