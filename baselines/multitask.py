"""LoRA on the union of the stream's tasks, in random order: the upper bound, since it never leaves a task behind.

A trial sees exactly the examples that a sequential arm of its seed sees, shuffled together; its stage t has as many of
them as the t-th task of the stream.  After the last stage both have seen the same examples as often.  Scores before
that say how far it is in the union, not in the stream, and one adapter goes through all of it whatever the study says.
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
    """A part of the examples of all tasks in one random order, as long as the task that stands at its place."""

    sequential: ClassVar[bool] = False

    def choose(self, position: int, drawn: Callable[[int], list[Example]], seeds: Sequence[int]) -> list[Example]:
        tasks = [drawn(task) for task in range(len(seeds))]
        everything = [example for examples in tasks for example in examples]
        order = np.random.default_rng(seeds).permutation(len(everything))
        start = sum(map(len, tasks[:position]))
        return [everything[i] for i in order[start : start + len(tasks[position])]]


def compose(settings: MethodSettings) -> Recipe:
    return Recipe(examples=Union(), between="continue")


METHOD = Method(
    name="multitask",
    summary="LoRA on all tasks of the stream at once (upper bound)",
    source="control",
    control=True,
    compose=compose,
)
