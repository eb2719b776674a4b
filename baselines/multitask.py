"""LoRA on the union of the stream's tasks, in random order: the upper bound, since it never leaves a task behind.

A trial sees exactly the examples that a sequential arm of its seed sees, T x N of them, shuffled together; its stage t
is the t-th of T equal parts.  After the last stage both have seen the same examples as often.  Scores before that say
how far it is in the union, not in the stream, and one adapter goes through all of it whatever the study says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from harness.method import Method, MethodSettings, Recipe, TaskExamples

if TYPE_CHECKING:
    from harness.engine.batches import Example


@dataclass(frozen=True)
class Union(TaskExamples):
    """One of as many equal parts as there are tasks, of all their examples in one random order."""

    sequential: ClassVar[bool] = False

    def choose(self, position: int, drawn: Callable[[int], list[Example]], seeds: Sequence[int]) -> list[Example]:
        everything = [example for task in range(len(seeds)) for example in drawn(task)]
        order = np.random.default_rng(seeds).permutation(len(everything))
        size = len(everything) // len(seeds)
        return [everything[i] for i in order[position * size : (position + 1) * size]]


def compose(settings: MethodSettings) -> Recipe:
    return Recipe(examples=Union(), between="continue")


METHOD = Method(
    name="multitask",
    summary="LoRA on all tasks of the stream at once (upper bound)",
    source="control",
    control=True,
    compose=compose,
)
