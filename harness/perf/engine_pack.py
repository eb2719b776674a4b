"""The engine in a benchmark: a pack of K rows that train on made-up examples, a few steps at a time.

Rank 8 on all projections, random token ids, and three kinds of steps, of 8 rows a trial: full rows of 128 tokens where
every token counts; the same with an answer of 4; the lengths of the bench's own tasks (24 to 58 tokens, 41 on average)
with an answer of 3.  Tokens are those that are not padding.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from harness.analysis.intruders import spectrum
from harness.engine.batches import Example, few_words, make_batch
from harness.engine.environment import peak_memory_gib, reset_peak_memory
from harness.engine.model.packed import PackedModel
from harness.engine.optimizer import OptimizerSettings
from harness.engine.rows import Rows, RowSpec
from harness.engine.step import take_step
from harness.method.recipe import Recipe
from harness.perf.common import timed

ROWS, RANK, ALPHA, RATE = 8, 8, 16, 5e-4
#: Batches that are trained on in turn, so that no cache flatters; one turn is the least that is timed.
TURN = 4
#: Of the text that some starts look at: 10,000 tokens.
DOCUMENTS = 400
#: On a GPU enough to see every shape as often as it takes to capture it (:mod:`harness.engine.trunk`).
WARM_UP_STEPS = {"cuda": 12, "cpu": 2}


class Kind(NamedTuple):
    """Lengths of the rows of a step, and of their answers."""

    shortest: int
    longest: int
    answer: int

    @property
    def labelled(self) -> float:
        return 2 * self.answer / (self.shortest + self.longest)


KINDS = {"all": Kind(128, 128, 127), "answer": Kind(128, 128, 4), "bench": Kind(24, 58, 3)}


def made_examples(kind: Kind, vocabulary: int, trial: int, *, shown: bool = False) -> list[list[Example]]:
    """``TURN`` steps' examples of one trial; ``shown``: a teacher reads prompt, answer and prompt again."""
    generator = np.random.default_rng(trial)
    lengths = generator.integers(kind.shortest, kind.longest + 1, (TURN, ROWS)).tolist()
    made = [[Example(generator.integers(0, vocabulary, n), n - kind.answer) for n in step] for step in lengths]
    return [[_shown(example) for example in step] for step in made] if shown else made


def _shown(example: Example) -> Example:
    return replace(example, shown=np.concatenate([example.prompt, example.answer, example.prompt]))


def mean_tokens(steps: Sequence[Sequence[Example]]) -> float:
    """Of a step, in tokens that are not padding."""
    return statistics.mean(sum(len(example.ids) for example in step) for step in steps)


class EnginePack:
    """A pack that is ready to train: made, warmed up, its shapes captured.

    What is timed is what a run does: batches are made as well, and nothing waits for the device but after a turn.
    """

    def __init__(
        self, model: PackedModel, trials: int, kind: str, recipe: Recipe | None = None, *, rate: float = RATE,
        tasks: int = 1,
    ) -> None:  # fmt: skip
        """``recipe``: plain LoRA where there is none.  With two ``tasks`` the second is timed, after a few steps of the
        first: there a method has all that it keeps.  Raises torch's error where memory runs out.
        """
        self.model, self.trials, self.kind, self.recipe = model, trials, kind, recipe or Recipe()
        self.rounds: list[list[float]] = []  # seconds of a step, of every turn
        free_memory(model.device)
        reset_peak_memory(model.device)
        shown = self.recipe.loss.demonstration is not None
        self.examples = [made_examples(KINDS[kind], model.vocabulary, trial, shown=shown) for trial in range(trials)]
        rows = [RowSpec(self.recipe, rate, seed) for seed in range(trials)]
        spectra = cache(lambda: [spectrum(weight[None]) for _, weight in model.weights()])  # once, as in a run
        self.rows = Rows(
            model, rows, RANK, ALPHA, OptimizerSettings(), spectra, lambda task, seed: few_words(DOCUMENTS, seed)
        )
        self._seen = 0
        examples = [[example for step in steps for example in step] for steps in self.examples]
        for task in range(tasks):
            if task:
                self.steps(TURN)
                self.rows.end_task()
            self.rows.begin_task(task, examples)
        self.steps(WARM_UP_STEPS[model.device.type])

    def steps(self, count: int) -> None:
        for _ in range(count):
            examples = [steps[self._seen % TURN] for steps in self.examples]
            seeds = [self._seen] * self.trials
            batch = make_batch(examples, 0, self.model.device, seeds=seeds, join=self.model.joins)
            take_step(self.rows, batch, 1.0, 0.5)
            self._seen += 1

    def run(self, seconds: float) -> None:
        """Time turns for so long, and one at least."""
        times: list[float] = []
        while not times or sum(times) * TURN < seconds:
            times.append(timed(lambda: self.steps(TURN), self.model.device) / TURN)
        self.rounds.append(times)
        assert bool(self.rows.alive.all()), "a trial diverged while it was timed"

    @property
    def step_seconds(self) -> float:
        """Median over all turns."""
        return statistics.median(time for times in self.rounds for time in times)

    def row(self) -> dict[str, Any]:
        """What was measured: medians over turns, and the least and most of a turn."""
        tokens = sum(mean_tokens(steps) for steps in self.examples)
        times = [time for times in self.rounds for time in times]
        return {
            "trials": self.trials,
            "kind": self.kind,
            "steps": TURN * len(times),
            "tokens_per_second": tokens / self.step_seconds,
            "tokens_per_second_least": tokens / max(times),
            "tokens_per_second_most": tokens / min(times),
            "tokens_per_second_of_rounds": [tokens / statistics.median(times) for times in self.rounds],
            "step_ms": 1000 * self.step_seconds,
            "peak_memory_gib": peak_memory_gib(self.model.device),
            **({"eager": self.rows.trunk.failed} if self.rows.trunk.failed else {}),
        }


def free_memory(device: torch.device) -> None:
    """Give back what earlier packs held: packs are circles of references, and graphs have pools of their own."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """On a GPU torch has a class for it; on a CPU its allocator says so in a RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
