"""What the rules are run on: a random model, random and learnable examples, and rows that train on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.engine.batches import Batch, Example, few_words, make_batch
from harness.engine.model.packed import PackedModel
from harness.engine.optimizer import OptimizerSettings
from harness.engine.rows import Rows, RowSpec, ScoredWeights
from harness.engine.step import take_step
from harness.method.recipe import Recipe
from harness.study.seeds import derive

SIZE = 4  # examples of a step
CPU = torch.device("cpu")


def tiny_model(*, copies: bool = False) -> PackedModel:
    """A random Llama of two layers with weights large enough for its logits to matter; the same every time.

    ``copies``: trained to repeat a shown answer, and to know nothing else of it: what a teacher with demonstrations is.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.15, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).float()
    if copies:
        _teach_to_copy(model)
    return PackedModel(model)


def _teach_to_copy(model: Any, steps: int = 80) -> None:
    rng, adam = np.random.default_rng(0), torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        toys = learnable(64, int(rng.integers(2**31)), answer=rng)
        ids = torch.from_numpy(np.stack([np.concatenate([e.prompt, e.answer, e.ids]) for e in toys]))
        first = toys[0].answer_start
        asked = [first, first + 1, len(toys[0].ids) + first, len(toys[0].ids) + first + 1]
        logits = model(ids).logits[:, [place - 1 for place in asked]]
        adam.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, asked].flatten()).backward()
        adam.step()


def make_engine(model: PackedModel, kept: Recipe, rates: Sequence[float], seeds: Sequence[int]) -> Rows:
    rows = [RowSpec(kept, rate, seed) for rate, seed in zip(rates, seeds, strict=True)]
    engine = Rows(model, rows, 8, 16.0, OptimizerSettings(), texts=toy_text)
    engine.begin_task(0, [random_examples(40, seed) for seed in seeds])
    return engine


def toy_text(task: str, seed: int) -> list[Example]:
    """Made-up text, whatever the task."""
    return few_words(40, seed)


def random_data(rows: int, task: int = 0) -> list[list[Example]]:
    return [random_examples(80, row + 10 * task) for row in range(rows)]


def random_examples(count: int, seed: int) -> list[Example]:
    """Random tokens with answers of one to three tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 14, size=count)
    return [Example(rng.integers(3, 97, size=n), int(n) - int(rng.integers(1, 4))) for n in lengths]


def learnable(count: int, seed: int, answer: np.random.Generator | None = None) -> list[Example]:
    """The token before the answer decides it; or nothing does, and it is drawn from those that there are."""
    rng = np.random.default_rng(seed)
    asked = rng.integers(3, 7, size=count)
    said = 90 - (asked if answer is None else answer.integers(3, 7, size=count))
    return [Example(np.array([1, *rng.integers(10, 20, size=3), q, a, 2]), 5) for q, a in zip(asked, said, strict=True)]


def make_steps(kept: Recipe, data: Sequence[Sequence[Example]], count: int, seeds: Sequence[int]) -> list[Batch]:
    """``count`` steps; a teacher that is shown the answer reads prompt, answer and prompt."""
    if kept.loss.demonstration:
        data = [[Example(e.ids, e.answer_start, np.concatenate([e.prompt, e.answer, e.prompt])) for e in examples]
                for examples in data]  # fmt: skip
    return [
        make_batch([rows[s * SIZE : (s + 1) * SIZE] for rows in data], 0, CPU, seeds=[derive(k, s) for k in seeds])
        for s in range(count)
    ]


def train(engine: Rows, steps: Sequence[Batch], *, first: int = 0) -> Tensor:
    """Losses [steps, K]."""
    return torch.stack([take_step(engine, step, min(1.0, (first + s + 1) / 5), 0.5)[0] for s, step in enumerate(steps)])


def train_two_tasks(engine: Rows, kept: Recipe, rows: Sequence[int]) -> Tensor:
    """Losses [steps, K] of a few steps on each of two tasks, for an engine that has begun the first."""
    losses = []
    for task in range(2):
        if task:
            engine.end_task()
            engine.begin_task(task, [random_examples(40, row + 10) for row in rows])
        data = random_data(max(rows) + 1, task)
        losses.append(train(engine, make_steps(kept, [data[row] for row in rows], 4, rows)))
    return torch.cat(losses)


def changes(model: PackedModel, scored: ScoredWeights) -> Tensor:
    """What it does to the weights, in a line."""
    scaling = torch.tensor([float(scored.scaling)])
    changes = zip(scored.layout.changes(scored.values[None], scaling, torch.float64), model.weights(), strict=True)
    return torch.cat([change.delta(weight).flatten() for change, (_, weight) in changes])
