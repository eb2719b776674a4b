"""EVA (Paischer et al., arXiv 2410.07170): A starts as the principal directions of what each matrix reads.

For every adapted matrix, with X the inputs at the answer tokens of the task that begins, on the model as it is then:

    X - mean(X) = U S V^T,   A0 = V_r^T,   B0 = 0

Ranks are fixed (``rho`` 1) or redistributed (``rho`` > 1, PEFT's default 2): every matrix offers the explained variance
ratios of its first rho * r directions, and the best r * (number of matrices) of all are taken.  Lower ranks are filled
up with zeros, which never train; the scaling stays alpha / r whatever a matrix's rank, as with PEFT's
``adjust_scaling_factors``.

As in PEFT (``init_lora_weights="eva"``), whose decomposition is incremental and stops when it has converged
(``tau``); here it is one decomposition of the first ``tokens`` answer tokens.  Matrices that read the same input have
the same directions.  Under ``reinit`` every task starts from its own inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from harness.method import Inspection, LowRank, Method, MethodSettings, Recipe, Start
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Activations(LowRank):
    """LoRA factors whose A starts as principal directions; ``rho`` is the highest rank over the study's."""

    rho: float
    tokens: int

    @property
    def rank_factor(self) -> float:
        return self.rho

    @property
    def inspects(self) -> tuple[Inspection, ...]:
        return (Inspection("start", "answers", self.tokens, matrices=1.3),)

    def start(self, drawn: Tensor, at: Start) -> Tensor:
        highest = at.layout.rank
        each = inputs(at, self.tokens)
        once: dict[int, tuple[Tensor, Tensor]] = {}
        for x in each:
            if id(x) not in once:
                once[id(x)] = principal(x, highest)
        found = [once[id(x)] for x in each]
        ranks = distribution([ratios for _, ratios in found], round(highest / self.rho) * len(found))
        drawn.zero_()
        for (a, _), (directions, _), rank in zip(at.layout.split(drawn[None]), found, ranks, strict=True):
            a[0, :rank] = directions[:rank]
        return drawn


def inputs(at: Start, tokens: int) -> list[Tensor]:
    """What every slot reads at the first answer tokens of the examples, [at most ``tokens``, n] in fp32.

    Slots that read the very same input share one tensor.
    """
    from harness.engine.activations import first  # with torch

    assert at.inputs is not None, "the engine gives it"
    kept = list(at.inputs(first(at.examples, tokens)))
    whole: dict[tuple[int, ...], Tensor] = {}
    return [whole.setdefault(tuple(map(id, parts)), torch.cat(parts)[:tokens]) for parts in zip(*kept, strict=True)]


def principal(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(directions [count, n], explained variance ratios [count]) of inputs [tokens, n], as many as there are.

    By randomised subspace iteration from a fixed seed, as in PEFT, with more iterations and directions than there.
    The largest entry of a direction is positive.
    """
    centred = x - x.mean(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, values, directions = torch.svd_lowrank(centred, q=min(2 * count + 8, *x.shape), niter=8)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * largest.sign()  # a sign of its own kind means nothing; this one doesn't hang on rounding
    total = centred.square().sum().clamp(min=torch.finfo(x.dtype).tiny)
    return directions.mT[:count], values[:count].square() / total


def distribution(ratios: Sequence[Tensor], budget: int) -> list[int]:
    """The rank of every matrix: how many of its ratios are among the ``budget`` largest of all; earlier ones first."""
    owner = torch.cat([torch.full((len(own),), i) for i, own in enumerate(ratios)])
    best = torch.cat([own.cpu() for own in ratios]).argsort(descending=True, stable=True)[:budget]
    return torch.bincount(owner[best], minlength=len(ratios)).tolist()


class Settings(MethodSettings):
    rho: float = Field(2.0, ge=1, description="highest rank of a matrix over the study's; 1: all ranks are equal")
    eva_tokens: int = Field(2048, ge=2, description="answer tokens of a task from which the directions are taken")


def compose(settings: Settings) -> Recipe:
    return Recipe(adapter=Activations(settings.rho, settings.eva_tokens))


METHOD = Method(
    name="eva",
    summary="EVA: A starts as the principal directions of each matrix's inputs",
    source="arXiv 2410.07170; PEFT's definition",
    settings=Settings,
    compose=compose,
)
