"""SLAO (arXiv 2512.23017, "Merge before Forget"): one adapter, merged after each task, with orthogonal starts.

Task i trains one LoRA by itself, with moments of its own, from where task i - 1 has left it; between them A is made
orthonormal:

    A_i = Q^T where A_{i-1}^T = Q R with a positive diagonal of R,   B_i = B_{i-1}       (i = 1: LoRA's start)

and what is scored is the merge of all so far, of which there is only this one adapter:

    A_merge = A_i,   B_merge <- B_merge + lambda(i) (B_i - B_merge),   lambda(i) = 1 / sqrt(i)

While a task trains, its adapter as it is counts as the last.  A is replaced and B is averaged, because B starts at zero
and carries what a task has learnt, and A's directions change little from task to task.

Written from the paper's algorithm as two public implementations of it state it alike; the paper's own code is not
public.  The student starts a task elsewhere than it ended the last (R is dropped), as published.  On a stream of one
task it is plain LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from harness.method import Average, BoundAverage, CurrentTask, LowRank, Method, MethodSettings, Recipe, Start
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank, Layout


@dataclass(frozen=True)
class OrthogonalRestart(LowRank):
    """LoRA factors that start a task as the one before has left them, with the rows of A made orthonormal."""

    def start(self, drawn: Tensor, at: Start) -> Tensor:
        if at.before is None:
            return drawn
        for (a, b), (old_a, old_b) in zip(at.layout.split(drawn[None]), at.layout.split(at.before[None]), strict=True):
            a[0], b[0] = orthonormal(old_a[0]), old_b[0]
        return drawn


def orthonormal(a: Tensor) -> Tensor:
    """Q^T [r, n] of A^T = Q R, R with a positive diagonal."""
    q, r = torch.linalg.qr(a.mT)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0)
    whole = torch.zeros_like(a)  # a rank beyond the width: nothing is in it
    whole[: q.shape[1]] = (q * signs).mT
    return whole


@dataclass(frozen=True)
class SlaoMerge(Average):
    """A of the last task, and B averaged over the tasks with weights that fall as 1 / sqrt(i)."""

    follows: ClassVar[bool] = False
    spans_tasks: ClassVar[bool] = True

    @classmethod
    def bind(cls, averages: Sequence[Self], rows: Sequence[int], bank: AdapterBank[Layout]) -> BoundAverage:
        return _BoundSlaoMerge(rows, bank)


class _BoundSlaoMerge(BoundAverage):
    def __init__(self, rows: Sequence[int], bank: AdapterBank[Layout]) -> None:
        device = bank.values.device
        self.rows = torch.tensor(rows, device=device)
        self.values = torch.zeros(len(rows), bank.layout.size, device=device)  #: the merge of the finished tasks
        self.tasks = torch.zeros((), device=device)  #: that are finished
        self.finished = torch.zeros((), device=device)  #: 1: what trained last is in ``values``

    def begin_task(self, bank: AdapterBank[Layout], task: CurrentTask) -> None:
        self.finished.zero_()

    def after_step(self, bank: AdapterBank[Layout]) -> None:
        """What trains is looked at where it is asked for."""

    def end_task(self, bank: AdapterBank[Layout], task: CurrentTask) -> None:
        self.values.copy_(self._merged(bank, self.rows, self.values))
        self.tasks += 1
        self.finished.fill_(1)

    def _merged(self, bank: AdapterBank[Layout], rows: Tensor, merge: Tensor) -> Tensor:
        now, split = bank.values[rows], bank.layout.a_size
        b = torch.lerp(merge[:, split:], now[:, split:], (self.tasks + 1) ** -0.5)
        return torch.cat([now[:, :split], b], 1)

    def result(self, place: int, bank: AdapterBank[Layout]) -> tuple[Layout, Tensor]:
        if self.finished:
            return bank.layout, self.values[place]
        one = slice(place, place + 1)
        return bank.layout, self._merged(bank, self.rows[one], self.values[one])[0]

    def state(self) -> dict[str, Tensor]:
        return {"values": self.values, "tasks": self.tasks, "finished": self.finished}


def compose(settings: MethodSettings) -> Recipe:
    return Recipe(adapter=OrthogonalRestart(), average=SlaoMerge(), scored="average", between="fresh")


METHOD = Method(
    name="slao",
    summary="SLAO: one adapter from task to task, its B merged after each with weight 1 / sqrt(i)",
    source="arXiv 2512.23017",
    compose=compose,
    on_one_task="plain LoRA",
)
