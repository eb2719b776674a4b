"""LoRA whose intruder dimensions are scaled after each task, before it is scored and the next one begins.

For every matrix, at the end of a task, with W = W0 + dW all that has been learnt so far and u_j, sigma_j, v_j its
singular triplets: among the top 10, intruders are those whose largest |cosine| with any left singular vector of W0 is
below 0.5 (Shuttleworth et al., arXiv 2410.21228), and

    W <- W + (keep - 1) sum_j sigma_j u_j v_j^T      over all of them, or the first by singular value (``which``)

as `lorabench mitigate` does to finished adapters.  The change of the adapter that trains is then cut to its rank again
by its singular directions: so does PEFT's ``reduce_intruder_dimension``, to which one adapter is equal (its lambda is
``keep``: the part that is left, whatever its docstring says).  The paper scales after all training; between tasks it is
ours.

The cut change is put into factors near those there were, A <- A V V^T for the directions V that are left, so that
AdamW's moments still mean what they did; where A has lost a direction of V, both factors start again from it in equal
parts.  Where a trial has no intruder dimensions, as at rank 8 of SmolLM2-135M in the runs so far, this is plain LoRA to
the last bit.  Under ``reinit`` what lies below is part of W, and the new adapter takes all of the scaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from baselines.merge_ties import largest
from harness.method import BoundUpdate, CurrentTask, Inspection, Method, MethodSettings, Recipe, UpdateRule
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank, Layout

#: Beyond it the directions that are left have hardly a coordinate in A.
WORST_CONDITION = 1e4


@dataclass(frozen=True)
class ScaleIntruders(UpdateRule):
    """Scales intruder dimensions at the end of each task, so that ``keep`` of them is left."""

    keep: float
    which: Literal["first", "all"]

    takes_spectra: ClassVar[bool] = True

    @property
    def inspects(self) -> tuple[Inspection, ...]:
        return (Inspection("end", matrices=0.4),)  # where there are none to scale; 4 with one in every matrix

    @classmethod
    def bind(cls, rules: Sequence[Self | None], bank: AdapterBank[Layout]) -> BoundUpdate:
        return _BoundScaleIntruders(rules)


class _BoundScaleIntruders(BoundUpdate):
    def __init__(self, rules: Sequence[ScaleIntruders | None]) -> None:
        self.rules = list(rules)

    def end_task(self, bank: AdapterBank[Layout], task: CurrentTask) -> None:
        from harness.analysis.intruders import EPSILON, analyse  # with torch

        assert task.spectra is not None, "the engine gives them"
        finite = torch.where(bank.values.isfinite(), bank.values, 0.0).double()  # a row that has diverged is not scored
        changes = bank.layout.changes(finite, bank.scaling.double(), torch.float64)
        pairs = bank.layout.split(bank.values)
        for base, change, (a, b) in zip(task.spectra(), changes, pairs, strict=True):
            assert change.low_rank is not None, "LoRA on LoRA"
            all_a, all_b = change.low_rank
            best = analyse(base, all_a[None], all_b[None]).best[0]
            for row, rule in enumerate(self.rules):
                places = [] if rule is None else (best[row] < EPSILON).nonzero()[0].tolist()
                if rule is None or not places:
                    continue
                chosen = places if rule.which == "all" else places[:1]
                taken = (rule.keep - 1) * part(base.weights()[0] + all_b[row] @ all_a[row], chosen)
                own = float(bank.scaling[row]) * b[row].double() @ a[row].double()
                a[row], b[row] = refitted(own + taken, a[row].double(), float(bank.scaling[row]))


def part(matrix: Tensor, places: list[int]) -> Tensor:
    """sum_j sigma_j u_j v_j^T over these singular triplets of a matrix, the largest is number 0."""
    wide = matrix.shape[0] <= matrix.shape[1]
    vectors = torch.linalg.eigh(matrix @ matrix.mT if wide else matrix.mT @ matrix).eigenvectors.flip(1)[:, places]
    return vectors @ (vectors.mT @ matrix) if wide else (matrix @ vectors) @ vectors.mT


def refitted(change: Tensor, a: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """(A [r, n], B [m, r]) whose s B A is the change cut to rank r, near this A where it can be."""
    down, up = largest(change, len(a))
    left = torch.linalg.qr(down.mT)[0]  # [n, r]: the directions of the cut change
    coordinates = a @ left
    if not torch.linalg.cond(coordinates) <= WORST_CONDITION:
        sizes = torch.linalg.svdvals(down).mean().clamp(min=torch.finfo(down.dtype).tiny)
        return down / sizes.sqrt(), up * sizes.sqrt() / scaling
    return coordinates @ left.mT, torch.linalg.solve(coordinates, up @ (down @ left), left=False) / scaling


class Settings(MethodSettings):
    keep: float = Field(0.75, ge=0, le=1, description="part of an intruder dimension that is left after each task")
    which: Literal["first", "all"] = Field("all", description="which intruders of a matrix are scaled")

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return super().grid(steps_per_task) | {"keep": (0.25, 0.5, 0.75)}


def compose(settings: Settings) -> Recipe:
    return Recipe(updates=(ScaleIntruders(settings.keep, settings.which),))


METHOD = Method(
    name="mitigate_between",
    summary="LoRA whose intruder dimensions are scaled after each task",
    source="arXiv 2410.21228; between tasks ours; PEFT's reduce_intruder_dimension",
    settings=Settings,
    compose=compose,
)
