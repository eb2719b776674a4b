"""Merging (Ilharco et al., arXiv 2212.04089): a fresh LoRA for each task on the untouched base, added up after each.

    W = W0 + sum_i w_i s B_i A_i    over the tasks so far; while one trains, its adapter as it is counts as the last

``weights`` says which sum: ``mean`` (all 1 / tasks so far), one number (task arithmetic: the paper's scaling
coefficient for every task vector), or one number a task of the stream, that add up to 1; before the last task those
so far, over their sum.  The adapters train as `single_task` does, so that all merges train once with it.

The product of the sum is exact, by factors that stand side by side (PEFT's ``add_weighted_adapter`` with ``cat``), so
an export has the rank of all tasks together.  Averaging A and B themselves (PEFT's ``linear``) is another thing: their
product has terms B_i A_j of tasks that never met.

What deviates: the paper chooses one coefficient on validation data, from many; ``tune`` tries the mean, 0.3 (the
paper's usual value for several tasks), 0.5 and 1.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, field_validator

from harness.errors import SettingError
from harness.method import Average, BoundAverage, CurrentTask, Method, MethodSettings, Recipe
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank, DenseLayout, Layout


_WRITE = "write 'mean', a number above 0, or one number a task: '0.5 0.5'"


@dataclass(frozen=True)
class MergeMean(Average):
    """The sum of every task's change, times one weight or a weight a task; None: the mean."""

    weights: float | tuple[float, ...] | None = None

    follows: ClassVar[bool] = False
    spans_tasks: ClassVar[bool] = True

    @property
    def shape(self) -> tuple[Any, ...]:
        return ("merged",)

    @classmethod
    def bind(cls, averages: Sequence[Self], rows: Sequence[int], bank: AdapterBank[Layout]) -> BoundAverage:
        return _BoundMergeMean(averages, rows, bank)

    def of(self, tasks: int) -> list[float]:
        """The weights of so many tasks."""
        if self.weights is None:
            return [1 / tasks] * tasks
        if isinstance(self.weights, tuple):
            return [weight / sum(self.weights[:tasks]) for weight in self.weights[:tasks]]
        return [self.weights] * tasks


class BoundMerge(BoundAverage):
    """Keeps what each finished task has left: ``values`` [N, tasks * P], one after the other.

    A merge is made once for all who ask between two steps: scores, intruders, files.
    """

    def __init__(self, averages: Sequence[Any], rows: Sequence[int], bank: AdapterBank[Layout]) -> None:
        self.averages, self.rows = list(averages), list(rows)
        self.values = bank.values.new_zeros(len(rows), 0)
        self.finished = torch.zeros((), device=bank.values.device)  #: 1: what trains is the last of ``values``
        self._made: dict[int, tuple[Layout, Tensor]] = {}

    def begin_task(self, bank: AdapterBank[Layout], task: CurrentTask) -> None:
        self.finished.zero_()
        self._made.clear()

    def after_step(self, bank: AdapterBank[Layout]) -> None:
        """What trains is looked at where it is asked for."""
        self._made.clear()

    def end_task(self, bank: AdapterBank[Layout], task: CurrentTask) -> None:
        self._made.clear()
        self.values = torch.cat([self.values, bank.values[self.rows]], 1)
        self.finished.fill_(1)

    def result(self, place: int, bank: AdapterBank[Layout]) -> tuple[Layout | DenseLayout, Tensor]:
        if place not in self._made:
            adapters = [*self.values[place].split(bank.layout.size)] if self.values.shape[1] else []
            if not self.finished:
                adapters.append(bank.values[self.rows[place]])
            self._made[place] = self.merged(place, torch.stack(adapters), bank.layout)
        return self._made[place]

    @abstractmethod
    def merged(self, place: int, adapters: Tensor, layout: Layout) -> tuple[Layout, Tensor]:
        """(layout, values [P]) of average number ``place`` from the adapters [tasks, P] of every task so far."""

    def state(self) -> dict[str, Tensor]:
        return {"values": self.values, "finished": self.finished}

    def load(self, state: dict[str, Tensor]) -> None:
        self._made.clear()
        self.values = state["values"].to(self.values)
        self.finished.copy_(state["finished"])


class _BoundMergeMean(BoundMerge):
    def merged(self, place: int, adapters: Tensor, layout: Layout) -> tuple[Layout, Tensor]:
        whole = replace(layout, rank=len(adapters) * layout.rank)
        values = adapters.new_empty(1, whole.size)
        weights = adapters.new_tensor(self.averages[place].of(len(adapters)))
        for (a, b), (each_a, each_b) in zip(whole.split(values), layout.split(adapters), strict=True):
            a[0] = each_a.flatten(0, 1)
            b[0] = (weights[:, None, None] * each_b).transpose(0, 1).flatten(1)
        return whole, values[0]


class Settings(MethodSettings):
    weights: float | str = Field("mean", description="'mean', one number for every task, or one a task ('0.5 0.3 0.2')")

    @field_validator("weights", mode="before")
    @classmethod
    def _is_no_boolean(cls, weights: object) -> object:
        if isinstance(weights, bool):
            raise SettingError(f"{str(weights).lower()} is no weight", remedy=_WRITE)
        return weights

    @field_validator("weights")
    @classmethod
    def _can_be_read(cls, weights: float | str) -> float | str:
        parsed(weights)
        return weights

    @classmethod
    def grid(cls, steps_per_task: int) -> dict[str, Sequence[Any]]:
        return super().grid(steps_per_task) | {"weights": ("mean", 0.3, 0.5, 1.0)}

    def check_stream(self, tasks: int) -> None:
        each = parsed(self.weights)
        if isinstance(each, tuple) and len(each) != tasks:
            raise SettingError(
                f"there are {len(each)} weights for a stream of {tasks} tasks",
                remedy="give one number a task, one number for all of them, or 'mean'",
                key="weights",
            )


def parsed(weights: float | str) -> float | tuple[float, ...] | None:
    """The weights as numbers; None: the mean.  Raises SettingError for those that are none, or don't add up to 1."""
    if weights == "mean":
        return None
    try:
        each = [float(part) for part in str(weights).split()]
    except ValueError:
        each = []
    if not each or not all(map(math.isfinite, each)):
        raise SettingError(f"'{weights}' are no weights", remedy=_WRITE)
    if len(each) == 1:
        if each[0] <= 0:
            raise SettingError(f"the weight {each[0]:g} is not above 0", remedy=_WRITE)
        return each[0]
    if min(each) < 0 or not each[0] or not math.isclose(sum(each), 1, abs_tol=1e-3):
        raise SettingError(
            f"the weights of tasks add up to {sum(each):g}; they must be shares that add up to 1, the first above 0",
            remedy="correct them, or give one number, with which every task's change is multiplied",
        )
    return tuple(each)


def compose(settings: Settings) -> Recipe:
    return Recipe(average=MergeMean(parsed(settings.weights)), scored="average", between="fresh")


METHOD = Method(
    name="merge_mean",
    summary="a fresh LoRA for each task, scored with their mean (or a sum: task arithmetic)",
    source="arXiv 2212.04089; PEFT's add_weighted_adapter (cat)",
    settings=Settings,
    compose=compose,
    on_one_task="plain LoRA",
)
