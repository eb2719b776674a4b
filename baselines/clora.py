"""CLoRA (Lu et al., arXiv 2410.16801): a penalty keeps the change out of a fixed random subspace of inputs and outputs.

    loss = CE + (lambda / 2) sum over matrices (||A P_in||_F^2 + ||B^T P_out||_F^2)

P_in [n, k_in] and P_out [m, k_out] have orthonormal columns that are drawn once, from the trial's seed, and stay.
Where the penalty is small, B A maps nothing of the one subspace and nothing into the other: its null space is at least
that large, so what W0 does there stays.  The gradients, lambda A P P^T and lambda P P^T B, are added before the clip.

The published code is what is meant (its penalty has the half, its lambda is 1); the paper writes the two terms without
it.  What deviates: k is a share of each side's width (``subspace``; 0.125 by default, as the code's 512 of 4096), not
one number for matrices of all widths.  Under ``reinit`` each task's adapter is kept out of the same subspace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from harness.method import BoundUpdate, Method, MethodSettings, Recipe, UpdateRule
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank, Layout


@dataclass(frozen=True)
class KeepOut(UpdateRule):
    """The penalty on what A reads from, and B writes to, a share of each side's directions."""

    strength: float
    subspace: float

    @property
    def dense_copies(self) -> float:
        return 3 * self.subspace  # n^2 + m^2 over m n, at the shapes of a Llama's projections

    @classmethod
    def bind(cls, rules: Sequence[Self | None], bank: AdapterBank[Layout]) -> BoundUpdate:
        return _BoundKeepOut(rules, bank)


class _BoundKeepOut(BoundUpdate):
    def __init__(self, rules: Sequence[KeepOut | None], bank: AdapterBank[Layout]) -> None:
        device = bank.values.device
        self.strength = torch.tensor([rule.strength if rule else 0.0 for rule in rules], device=device)[:, None, None]
        self.shares = [rule.subspace if rule else 0.0 for rule in rules]
        self.shapes = [(slot.in_features, slot.out_features) for slot in bank.layout.slots]
        self.seeds = torch.tensor(bank.seeds)
        self._draw(device)

    def _draw(self, device: torch.device) -> None:
        """(P_in [K, n, k], P_out [K, m, k]) of every slot; a row without the rule, or with a smaller k, has zeros."""
        generators = [torch.Generator().manual_seed(seed) for seed in self.seeds.tolist()]
        self.subspaces: list[tuple[Tensor, Tensor]] = []
        for sides in self.shapes:
            drawn = []
            for width in sides:
                each = [width_of(share, width) for share in self.shares]
                both = torch.zeros(len(each), width, max(each))
                for row, count in enumerate(each):
                    both[row, :, :count] = torch.randn(width, count, generator=generators[row])
                drawn.append(orthonormal(both.to(device)))
            self.subspaces.append((drawn[0], drawn[1]))

    def penalise(self, bank: AdapterBank[Layout], gradient: Tensor) -> None:
        pairs, gradients = bank.layout.split(bank.values), bank.layout.split(gradient)
        for (a, b), (into_a, into_b), (p_in, p_out) in zip(pairs, gradients, self.subspaces, strict=True):
            into_a += self.strength * torch.bmm(torch.bmm(a, p_in), p_in.mT)
            into_b += self.strength * torch.bmm(p_out, torch.bmm(p_out.mT, b))

    def state(self) -> dict[str, Tensor]:
        """The seeds say all."""
        return {"seeds": self.seeds}

    def load(self, state: dict[str, Tensor]) -> None:
        super().load(state)
        self._draw(self.strength.device)


def orthonormal(drawn: Tensor) -> Tensor:
    """The columns of [K, width, k] made orthonormal; columns of zeros stay.

    By Cholesky of their products, in fp64 since that squares how near they are to each other: on a GPU all rows at
    once, where a QR of each took 37 s for 16 trials of 135M.
    """
    exact = drawn.double()
    products = exact.mT @ exact
    none = products.diagonal(dim1=1, dim2=2) == 0
    products.diagonal(dim1=1, dim2=2).add_(none)
    root = torch.linalg.cholesky(products, upper=True)
    return torch.linalg.solve_triangular(root, exact, upper=True, left=False).to(drawn.dtype)


def width_of(share: float, width: int) -> int:
    """Directions of so many that a share of them is: at least one, where there is a share."""
    return max(1, round(share * width)) if share else 0


class Settings(MethodSettings):
    strength: float = Field(1.0, ge=0, description="lambda, the weight of the penalty")
    subspace: float = Field(
        0.125, gt=0, lt=1, description="share of a side's directions that the change is kept out of"
    )

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return super().grid(steps_per_task) | {"subspace": (0.05, 0.125, 0.5)}


def compose(settings: Settings) -> Recipe:
    return Recipe(updates=(KeepOut(settings.strength, settings.subspace),))


METHOD = Method(
    name="clora",
    summary="CLoRA: a penalty keeps the change out of a fixed random subspace",
    source="arXiv 2410.16801",
    settings=Settings,
    compose=compose,
)
