"""O-LoRA (Wang et al., arXiv 2310.14152): a new LoRA for each task, in directions that earlier ones leave free.

    W = W0 + s (B_1 A_1 + ... + B_t A_t),  only A_t and B_t are trained
    loss = CE + lambda_1 sum_{i < t} sum_jk |A_i A_t^T|_jk + lambda_2 sum over matrices (||A_t||_F + ||B_t||_F)

The rows of A span what an adapter reads, so rows that are orthogonal to earlier ones leave earlier tasks' updates
alone.  The absolute value is that of the published code (cmnfriend/O-LoRA; the paper writes a square), as are the
norms, which are not squared; their gradients are added before the clip.  Lambda_1 = 0.5 and lambda_2 = 0 are the
published values for the standard benchmark's first tasks.

What deviates: dropout 0 (published 0.1) and the study's rank, alpha and targets (published 8, 32, q and v), as for
every arm here.  Every task has a fresh adapter whatever the study says between tasks.  On a stream of one task it is
plain LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pydantic import Field

from harness.method import BoundUpdate, Method, MethodSettings, Recipe, UpdateRule
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank


@dataclass(frozen=True)
class Orthogonal(UpdateRule):
    """The penalty on what A shares with the A of earlier tasks, and one on the size of the new factors."""

    strength: float
    size_strength: float

    @classmethod
    def bind(cls, rules: Sequence[Self | None], bank: AdapterBank) -> BoundUpdate:
        return _BoundOrthogonal([rule or Orthogonal(0, 0) for rule in rules], bank)


class _BoundOrthogonal(BoundUpdate):
    def __init__(self, rules: Sequence[Orthogonal], bank: AdapterBank) -> None:
        device = bank.values.device
        self.strength = torch.tensor([float(rule.strength) for rule in rules], device=device)[:, None, None]
        self.size_strength = torch.tensor([float(rule.size_strength) for rule in rules], device=device)[:, None, None]
        self.sized = any(rule.size_strength for rule in rules)

    def penalise(self, bank: AdapterBank, gradient: Tensor) -> None:
        frozen = bank.layout.frozen
        pairs, gradients = bank.layout.split(bank.values), bank.layout.split(gradient)
        if self.sized:
            for factors, into in zip(pairs, gradients, strict=True):
                for factor, grad in zip(factors, into, strict=True):
                    norm = factor.flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-12)  # B starts at zero
                    grad += self.size_strength * factor / norm
        if frozen is not None:
            earlier = frozen.layout.split(frozen.values)
            for (a, _), (grad, _), (old, _) in zip(pairs, gradients, earlier, strict=True):
                grad += self.strength * torch.bmm(torch.bmm(a, old.mT).sign(), old)


class Settings(MethodSettings):
    orthogonality: float = Field(0.5, ge=0, description="lambda_1, the weight of the overlap with earlier tasks")
    size_penalty: float = Field(0.0, ge=0, description="lambda_2, the weight of the norms of the new factors")


def compose(settings: Settings) -> Recipe:
    return Recipe(updates=(Orthogonal(settings.orthogonality, settings.size_penalty),), between="reinit")


METHOD = Method(
    name="o_lora",
    summary="O-LoRA: a new adapter for each task, orthogonal to the earlier ones",
    source="arXiv 2310.14152",
    settings=Settings,
    compose=compose,
    on_one_task="plain LoRA",
)
