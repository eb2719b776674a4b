"""CorDA (Yang et al., arXiv 2406.05223), knowledge-preserved: starts where W0 matters least for given text.

With C the covariance of what a matrix reads on running text, U S V^T = W0 C, and U_r, S_r, V_r those of the r smallest
singular values, s the scaling:

    B0 = U_r (S_r / s)^1/2,  A0 = (S_r / s)^1/2 V_r^T C^-1,  W = (W0 - s B0 A0) + s B A

so what is trained is the part of W0 that does least to such text, and the rest is frozen.  As in PEFT
(``corda_method="kpm"``), which is what is meant: C is the mean over documents of X^T X, each X over its largest entry,
and C + 0.01 mean(diag C) I is what counts as C.  Because V_r^T C^-1 = S_r^-1 U_r^T W0, no inverse is taken here; PEFT
takes one, in fp32, and adds more to the diagonal where that fails.  W0 is not written to (see `pissa`): an export is
plain LoRA of rank 2 r.

The text is the unscored part of the ``text`` task: documents of ``plain_text``'s source that are in none of its splits,
in an order from the trial's seed, ``text_tokens`` of them (by default 8,192, or six for each input of the widest matrix
where that is more); what is read counts as tokens of the trial.  Published: 256 samples of 2,048 tokens of the
knowledge to be kept (NQ).  Under ``reinit`` every task starts anew from W0, with the covariance of the model as it is
then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.method import Inspection, LowRank, Method, MethodSettings, Recipe, Start, eigen
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

DAMPING = 0.01  #: of the covariance's mean diagonal, as in PEFT


@dataclass(frozen=True)
class TextOriented(LowRank):
    """LoRA factors that start as the part of W0 that matters least for text, which is taken off the base."""

    text: str
    tokens: int

    puts_below: ClassVar[bool] = True

    def room(self, shape: tuple[int, int]) -> int:
        return min(shape)

    @property
    def reads_text(self) -> str:
        return self.text

    @property
    def inspects(self) -> tuple[Inspection, ...]:
        return (Inspection("start", "text", self.tokens, matrices=3.5),)

    def start(self, drawn: Tensor, at: Start) -> tuple[Tensor, Tensor]:
        pairs, weights = at.layout.split(drawn[None]), list(at.model.weights())
        for slot, weight in weights:
            at.check_room(slot, min(weight.shape), "singular directions")
        for readers, moment in at.moments(self.tokens, levelled=True):
            for (a, b), (_, weight) in ((pairs[i], weights[i]) for i in readers):
                a[0], b[0] = least(weight, moment, at.layout.rank, at.scaling)
        return drawn, at.negative_of(drawn)


def least(weight: Tensor, moment: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """(A0 [r, n], B0 [m, r]) for W0 [m, n] and the second moments [n, n] of its inputs."""
    w, c = weight.double(), moment.double()
    product = w @ (c + DAMPING * c.diagonal().mean() * torch.eye(len(c), dtype=c.dtype, device=c.device))
    # The smaller of M M^T and M^T M has the same directions at a part of the cost, and fp64 has room for the squares.
    if product.shape[0] <= product.shape[1]:
        u = eigen.smallest(product @ product.mT, rank)[1]
        sizes = (u.mT @ product).norm(dim=1)
    else:
        scaled = product @ eigen.smallest(product.mT @ product, rank)[1]
        sizes = scaled.norm(dim=0)
        u = scaled / sizes.clamp(min=torch.finfo(sizes.dtype).tiny)
    root = (sizes / scaling).sqrt()
    a = (u.mT @ w) / (scaling * root).clamp(min=torch.finfo(sizes.dtype).tiny)[:, None]
    return a.to(torch.float32), (u * root).to(torch.float32)


class Settings(MethodSettings):
    learning_rate: float = Field(1e-4, gt=0, description="rate of AdamW after warm-up")
    text: str = Field("plain_text", description="the task whose unscored text is read before training")
    text_tokens: int = Field(0, ge=0, description="tokens of that text; 0: 8,192, or six an input of the widest matrix")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return {"learning_rate": (2e-5, 5e-5, 1e-4, 2e-4, 5e-4)}


def compose(settings: Settings) -> Recipe:
    return Recipe(adapter=TextOriented(settings.text, settings.text_tokens))


METHOD = Method(
    name="corda",
    summary="CorDA: starts as the part of each matrix that matters least for plain text",
    source="arXiv 2406.05223; PEFT's definition (kpm)",
    settings=Settings,
    compose=compose,
)
