"""OSF (Nayak et al., arXiv 2504.07097): a dense change, kept orthogonal to W0's leading singular directions.

With W0 = U S V^T, h the leading ``preserved`` share of its singular directions and l the others:

    W = U_h S_h V_h^T + U_l diag(S_l) V_l^T,   U_l, S_l and V_l trained from where they are in W0
    gradient of U_l <- (I - U_h U_h^T) gradient,   gradient of V_l^T <- gradient (I - V_h V_h^T)     before the clip

As in PEFT (``OSFConfig``), which is what is meant: the projected gradients go through AdamW, whose steps are no longer
exactly orthogonal, and nothing projects the weights.  W0 is not written to: its minor part lies below as a frozen
negative adapter (see `pissa`), so an export is plain LoRA, of twice as many ranks as are trained.

Half of each matrix's directions are trained by default; the study's rank and alpha mean nothing, rates are those of
`full_finetune`, and packs are about as small.

What deviates: U_h and V_h are W0's throughout the stream, and one ``preserved`` holds for all layers and tasks.  So
what is protected is what the base knows; of what earlier tasks have taught nothing is.  The paper decomposes the
weights anew before each task, keeps more directions with every task, and a share of its own for each layer, by how its
outputs resemble its inputs.  PEFT's class is for one task, and its guide advises for a stream to do as much by hand: a
new decomposition between tasks, and a growing ``effective_rank``.  So on one task this is PEFT's, on a stream it is
not what PEFT advises.  Under ``reinit`` every task starts from W0's minor part again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from harness.method import Adapter, BoundUpdate, CurrentTask, Method, MethodSettings, Recipe, Start, UpdateRule, Vector
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank, Layout


def kept(preserved: float, shape: tuple[int, int]) -> int:
    """How many leading directions of a matrix of this shape stay."""
    return int(preserved * min(shape))


@dataclass(frozen=True)
class MinorSpectrum(Adapter):
    """The minor singular directions and values of every matrix, as they are in W0, which is relieved of them."""

    preserved: float

    vectors: ClassVar[tuple[Vector, ...]] = ("spectrum",)
    puts_below: ClassVar[bool] = True
    takes_spectra: ClassVar[bool] = True

    @property
    def dense_copies(self) -> float:
        """Eight of what trains (itself, gradient, two moments, a step, what lies below it), and one of what is kept."""
        return 16 * (1 - self.preserved) + 2 * self.preserved

    @property
    def rank_factor(self) -> None:
        return None

    @property
    def shape(self) -> tuple[Any, ...]:
        return (*super().shape, self.preserved)

    def factor_rank(self, rank: int, shapes: Sequence[tuple[int, int]]) -> int:
        return max(min(shape) - kept(self.preserved, shape) for shape in shapes)

    def scaling(self, rank: int, alpha: float) -> float:
        return 1.0

    def start(self, drawn: Tensor, at: Start) -> tuple[Tensor, Tensor]:
        drawn.zero_()  # of smaller matrices the last ranks are nothing, and stay so
        spectra = zip(
            at.layout.split(drawn[None]), at.layout.vector("spectrum", drawn[None]), at.spectra(), strict=True
        )
        for (a, b), sizes, base in spectra:
            low = slice(kept(self.preserved, (base.u.shape[2], base.v.shape[2])), None)
            count = base.d[0, low].numel()
            a[0, :count], b[0, :, :count] = base.v[0, low], base.u[0, low].mT
            sizes[0, :count] = base.d[0, low]
        return drawn, at.negative_of(drawn)


@dataclass(frozen=True)
class OrthogonalGradients(UpdateRule):
    """Takes the leading directions of W0 out of the gradients of both factors."""

    preserved: float

    takes_spectra: ClassVar[bool] = True

    @classmethod
    def bind(cls, rules: Sequence[Self | None], bank: AdapterBank[Layout]) -> BoundUpdate:
        return _BoundOrthogonalGradients(rules, bank)


class _BoundOrthogonalGradients(BoundUpdate):
    def __init__(self, rules: Sequence[OrthogonalGradients | None], bank: AdapterBank[Layout]) -> None:
        self.preserved = next(rule.preserved for rule in rules if rule)  # in the adapter's shape: one for a pack
        self.has = torch.tensor([float(rule is not None) for rule in rules], device=bank.values.device)[:, None, None]
        self.leading: list[tuple[Tensor, Tensor]] = []  #: (U_h^T [h, m], V_h^T [h, n]) of every slot, of all rows

    def begin_task(self, bank: AdapterBank[Layout], task: CurrentTask) -> None:
        assert task.spectra is not None, "the engine gives them"
        if not self.leading:
            for base in task.spectra():
                high = slice(kept(self.preserved, (base.u.shape[2], base.v.shape[2])))
                self.leading.append((base.u[0, high].float(), base.v[0, high].float()))

    def penalise(self, bank: AdapterBank[Layout], gradient: Tensor) -> None:
        for (a, b), (u, v) in zip(bank.layout.split(gradient), self.leading, strict=True):
            a -= self.has * ((a @ v.mT) @ v)
            b -= self.has * (u.mT @ (u @ b))


class Settings(MethodSettings):
    learning_rate: float = Field(2e-5, gt=0, description="rate of AdamW after warm-up")
    preserved: float = Field(0.5, gt=0, lt=1, description="share of each matrix's singular directions that stays")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return {"learning_rate": (5e-6, 1e-5, 2e-5, 5e-5, 1e-4), "preserved": (0.5, 0.75, 0.9)}


def compose(settings: Settings) -> Recipe:
    return Recipe(adapter=MinorSpectrum(settings.preserved), updates=(OrthogonalGradients(settings.preserved),))


METHOD = Method(
    name="osf",
    summary="OSF: trains each matrix's minor singular directions, orthogonal to the leading ones",
    source="arXiv 2504.07097; PEFT's definition",
    settings=Settings,
    compose=compose,
)
