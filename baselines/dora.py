"""DoRA (Liu et al., arXiv 2402.09353): the direction of every row of the weights by LoRA, its length by a vector.

    W = diag(m / ||W0 + s B A||) (W0 + s B A),   m0 = ||W0||,   norms of rows

m, A and B are trained by AdamW; the norm counts as a constant for the gradient (section 4.3 of the paper, and PEFT's
``use_dora=True``, which this is).  No merged weight is made, only

    ||w + s b A||^2 = ||w||^2 + 2 s b (A w) + s^2 b (A A^T) b^T     for a row w of W0 and the row b of B,

from W0 A^T and A A^T.  Under ``reinit`` the norms are those of W0 with everything frozen on it, which is one DoRA of
higher rank again, so that every export is one that PEFT loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.method import LowRank, Method, MethodSettings, Recipe, Start, Vector

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class WeightDecomposed(LowRank):
    """LoRA factors and the magnitude of every row, which starts as it is."""

    vectors: ClassVar[tuple[Vector, ...]] = ("magnitude",)

    def start(self, drawn: Tensor, at: Start) -> Tensor:
        frozen = at.layout.frozen
        if frozen is None:
            now = [weight.float().square().sum(1).sqrt() for _, weight in at.model.weights()]
        else:
            now = [magnitude[0] for magnitude in frozen.layout.vector("magnitude", frozen.values)]
        for magnitude, length in zip(at.layout.vector("magnitude", drawn[None]), now, strict=True):
            magnitude.copy_(length)
        return drawn


def compose(settings: MethodSettings) -> Recipe:
    return Recipe(adapter=WeightDecomposed())


METHOD = Method(
    name="dora",
    summary="DoRA: LoRA for the direction of each row, a magnitude for its length",
    source="arXiv 2402.09353; PEFT's definition",
    compose=compose,
)
