"""LoRA with replay: one example in twenty comes from an earlier task.

From the second task on, every ``replay_every``-th example of a task is replaced by one of those that the trial has
trained on before, drawn from its own seed, uniformly and with replacement over all earlier tasks.  The number of
examples and of steps stays the same, so the current task gets a twentieth less.

The memory is unlimited: every earlier example may come back (published replays keep 1-10 % of each task, TRACE mixes
in a tenth).  On a stream of one task it is plain LoRA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from harness.method import Method, MethodSettings, Recipe, TaskExamples

if TYPE_CHECKING:
    from harness.engine.batches import Example


@dataclass(frozen=True)
class Replay(TaskExamples):
    """The current task's examples, every ``every``-th replaced by one from an earlier task."""

    every: int

    def choose(self, position: int, drawn: Callable[[int], list[Example]], seeds: Sequence[int]) -> list[Example]:
        chosen = list(drawn(position))
        earlier = [example for task in range(position) for example in drawn(task)]
        if earlier:
            places = range(self.every - 1, len(chosen), self.every)
            picks = np.random.default_rng([seeds[position], self.every]).integers(len(earlier), size=len(places))
            for place, pick in zip(places, picks, strict=True):
                chosen[place] = earlier[pick]
        return chosen


class Settings(MethodSettings):
    replay_every: int = Field(20, ge=2, description="one example in this many comes from an earlier task")


def compose(settings: Settings) -> Recipe:
    return Recipe(examples=Replay(settings.replay_every))


METHOD = Method(
    name="lora_replay",
    summary="LoRA, with one example in twenty from earlier tasks",
    source="experience replay, arXiv 1811.11682; as in TRACE, arXiv 2310.06762",
    settings=Settings,
    compose=compose,
    on_one_task="plain LoRA",
)
