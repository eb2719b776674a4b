"""LoRA + EMA of the product: train plain LoRA, score the exponential moving average of B A.

    M <- decay M + (1 - decay) B A      after every optimizer step, dense, in fp32, from a copy of the student's

with the window of :mod:`baselines.lora_ema`.  The average of the factors is another thing: EMA(B A) - EMA(B) EMA(A) is
the EMA covariance of B and A, sum_t w_t (B_t - EMA(B)) (A_t - EMA(A)) for the weights w_t of the average, which only
vanishes where the factors stand still.

``keep_rank`` 0 scores M itself, which has no low rank: it is not kept or exported.  Otherwise M is cut to its
``keep_rank`` largest singular directions before it is scored, and the record says what share of its energy
(squared Frobenius norm over all matrices) that loses after every task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field

from baselines import lora_ema
from harness.method import Average, BoundAverage, Method, Recipe
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank, DenseLayout, Layout


@dataclass(frozen=True)
class ProductEma(Average):
    """EMA of B A with this decay a step; cut to ``rank`` where that is not 0."""

    decay: float
    rank: int = 0
    warm: bool = False

    dense_copies: ClassVar[int] = 3  #: the average, and two copies while it is scored

    @property
    def shape(self) -> tuple:
        return ("product", self.rank)

    @classmethod
    def bind(cls, averages: Sequence[Self], rows: Sequence[int], bank: AdapterBank) -> BoundAverage:
        return _BoundProductEma(averages, rows, bank)


class _BoundProductEma(BoundAverage):
    def __init__(self, averages: Sequence[ProductEma], rows: Sequence[int], bank: AdapterBank) -> None:
        device = bank.values.device
        self.decay = lora_ema.Decay(averages, device)
        self.ranks = [average.rank for average in averages]
        self.rows = torch.tensor(rows, device=device)
        self.layout = bank.layout.dense()
        self.values = torch.zeros(len(rows), self.layout.size, device=device)
        self.updates = torch.zeros((), device=device)
        self._take(bank, torch.zeros(len(rows), device=device))

    def _take(self, bank: AdapterBank, decay: Tensor) -> None:
        """M <- decay M + (1 - decay) B A."""
        kept, new = decay[:, None, None], (1 - decay)[:, None, None]
        pairs = bank.layout.split(bank.values[self.rows])
        for mean, (a, b) in zip(self.layout.split(self.values), pairs, strict=True):
            mean.mul_(kept).baddbmm_(b * new, a)

    def after_step(self, bank: AdapterBank) -> None:
        self._take(bank, self.decay(self.updates))
        self.updates += 1

    def result(self, place: int, bank: AdapterBank) -> tuple[Layout | DenseLayout, Tensor]:
        if not self.ranks[place]:
            return bank.layout.dense(), self.values[place]
        return self._cut(place, bank)[:2]

    def lost_energy(self, place: int, bank: AdapterBank) -> float | None:
        return self._cut(place, bank)[2] if self.ranks[place] else None

    def _cut(self, place: int, bank: AdapterBank) -> tuple[Layout, Tensor, float]:
        """(layout, values [P], share of the energy that is lost): the largest singular directions of every matrix."""
        layout = bank.layout.dense().low_rank(self.ranks[place])
        values = self.values.new_zeros(1, layout.size)
        whole = kept = 0.0
        means = self.layout.split(self.values[place : place + 1].nan_to_num())  # a row that has diverged is not scored
        for (a, b), (mean,) in zip(layout.split(values), means, strict=True):
            u, d, v = _largest(mean, self.ranks[place])
            a[0, : len(d)], b[0, :, : len(d)] = (v * d.sqrt()).mT, u * d.sqrt()
            whole, kept = whole + float(mean.square().sum()), kept + float(d.square().sum())
        return layout, values[0], max(0.0, 1 - kept / whole) if whole else 0.0

    def state(self) -> dict[str, Tensor]:
        return {"values": self.values, "updates": self.updates}


def _largest(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``rank`` largest singular triplets (U [m, r], D [r], V [n, r]), by subspace iteration from a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        u, d, v = torch.svd_lowrank(matrix, q=min(2 * rank + 8, *matrix.shape), niter=6)
    return u[:, :rank], d[:rank], v[:, :rank]


class Settings(lora_ema.Settings):
    keep_rank: int = Field(0, ge=0, description="rank that the average is cut to before it is scored; 0: it is dense")


def compose(settings: Settings) -> Recipe:
    assert settings.ema_decay is not None, "it is resolved"
    return Recipe(average=ProductEma(settings.ema_decay, settings.keep_rank, settings.ema_warmup), scored="average")


METHOD = Method(
    name="lora_ema_product",
    summary="plain LoRA, scored with the EMA of the product of its factors",
    source="arXiv 1703.01780; product against factors is an ablation of this bench",
    settings=Settings,
    compose=compose,
)
