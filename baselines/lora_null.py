"""LoRA-Null (Tang et al., arXiv 2503.02659): the adapter starts in the null space of what a matrix reads on given text.

With X what the matrix reads on running text, N [n, r] the eigenvectors of X^T X with the smallest eigenvalues, and
U S V^T = W0 N N^T, of rank r:

    B0 = U (S / s)^1/2,  A0 = (S / s)^1/2 V^T,  W = (W0 - s B0 A0) + s B A,  so that A0 X^T is near 0

``fix_a: false`` trains both factors from there (the paper's v1), ``fix_a: true`` leaves A in the null space (its v2).
A direction counts as null where it holds at most ``null_level`` of the energy of a mean direction; a rank larger than a
matrix has such directions is refused, because then A0 X is not near 0 (the published code takes the last r whatever
they hold).  That is all it does: within the limit it moves no number, so there is nothing of it to tune.

The paper is what is meant; of its code only descriptions were at hand.  What deviates: W0 is not written to (see
`pissa`, so an export is plain LoRA of rank 2 r), and the text: the unscored part of ``plain_text``, not NQ (see
`corda`).  What is read counts as tokens of the trial.  Under ``reinit`` every task starts anew from W0, in the null
space of the model as it is then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from harness.method import Inspection, LowRank, Method, MethodSettings, Recipe, Start, eigen
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NullSpace(LowRank):
    """LoRA factors that start as W0 on the null space of text, which is taken off the base."""

    text: str
    tokens: int
    level: float  #: a limit: within it, it moves no number
    fix_a: bool

    puts_below: ClassVar[bool] = True

    def room(self, shape: tuple[int, int]) -> int:
        return min(shape)

    @property
    def reads_text(self) -> str:
        return self.text

    @property
    def inspects(self) -> tuple[Inspection, ...]:
        return (Inspection("start", "text", self.tokens, inputs=eigen.FEW),)

    @property
    def fixes(self) -> Literal["A"] | None:
        return "A" if self.fix_a else None

    def start(self, drawn: Tensor, at: Start) -> tuple[Tensor, Tensor]:
        pairs, weights = at.layout.split(drawn[None]), list(at.model.weights())
        for readers, moment in at.moments(self.tokens):
            energy, n = eigen.smallest(moment.double(), at.layout.rank)
            null = int((energy <= self.level * moment.diagonal().double().mean()).sum())  # of those that are wanted
            for (a, b), (slot, weight) in ((pairs[i], weights[i]) for i in readers):
                room = min(null, len(weight))
                at.check_room(slot, room, f"directions that hold at most {self.level:g} of a mean one's energy")
                u, d, v = torch.linalg.svd(weight.double() @ n, full_matrices=False)
                root = (d / at.scaling).sqrt()
                a[0], b[0] = (root[:, None] * v) @ n.mT, u * root
        return drawn, at.negative_of(drawn)


class Settings(MethodSettings):
    limits: ClassVar[frozenset[str]] = frozenset({"null_level"})

    learning_rate: float = Field(1e-4, gt=0, description="rate of AdamW after warm-up")
    text: str = Field("plain_text", description="the task whose unscored text is read before training")
    text_tokens: int = Field(0, ge=0, description="tokens of that text; 0: 8,192, or six an input of the widest matrix")
    null_level: float = Field(
        0.1, gt=0, le=1, description="energy of a null direction, over that of a mean one, at most"
    )
    fix_a: bool = Field(False, description="whether A stays in the null space (v2 of the paper)")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return {"learning_rate": (2e-5, 5e-5, 1e-4, 2e-4, 5e-4)}


def compose(settings: Settings) -> Recipe:
    return Recipe(adapter=NullSpace(settings.text, settings.text_tokens, settings.null_level, settings.fix_a))


METHOD = Method(
    name="lora_null",
    summary="LoRA-Null: starts in the null space of what each matrix reads on plain text",
    source="arXiv 2503.02659",
    settings=Settings,
    compose=compose,
)
