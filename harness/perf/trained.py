"""Adapters that have been trained, so that what is measured on them holds for what a study scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from harness.engine.batches import Example, make_batch
from harness.engine.model.packed import PackedModel
from harness.engine.optimizer import OptimizerSettings
from harness.engine.rows import Rows, RowSpec
from harness.engine.step import take_step
from harness.method.recipe import Recipe
from harness.perf.questions import Range, questions
from harness.study.config import AdapterSettings

#: As long as a task of a study with its defaults: examples of a step, steps, of which the first few warm the rate up.
SIZE, STEPS, WARM_UP = 8, 64, 5
RATE = 5e-4


def trained(
    model: PackedModel, tokenizer: Any, trials: int, adapter: AdapterSettings, *, context: Range, answer: Range
) -> Tensor:
    """[K, P] on the CPU: plain LoRA of K seeds after a task of made-up questions, of which the words can be learnt."""
    rows = [RowSpec(Recipe(), RATE, seed) for seed in range(trials)]
    engine = Rows(model, rows, adapter.rank, adapter.alpha, OptimizerSettings())
    asked = questions(tokenizer, SIZE * STEPS, context=context, answer=answer, choices=2, seed=3).splits["test"]
    examples = [_example(tokenizer, row) for row in asked]
    engine.begin_task(0, [examples] * trials)
    for step in range(STEPS):
        batch = make_batch([examples[SIZE * step : SIZE * (step + 1)]] * trials, 0, model.device)
        take_step(engine, batch, min(1.0, (step + 1) / WARM_UP), step / STEPS)
    assert bool(engine.alive.all()), "a trial diverged on its way"
    return engine.bank.values.detach().cpu().clone()


def _example(tokenizer: Any, row: Any) -> Example:
    prompt = tokenizer.encode(row["text"])
    answer = tokenizer.encode(f" {row['choices'][row['label']]}", add_special_tokens=False)
    return Example(np.array([*prompt, *answer]), len(prompt))
