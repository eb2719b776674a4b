"""The decoder replayed from graphs: the same losses, gradients and weights as operation by operation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import CPU, packed_model, random_examples, relative
from hypothesis import given
from hypothesis import strategies as st

from baselines import combined, dora, full_finetune, lora, lora_ema, lora_ewc, self_distill, stable_lora
from harness.engine.batches import Sequences, bucket, make_batch
from harness.engine.model.packed import make_bank
from harness.engine.optimizer import OptimizerSettings
from harness.engine.rows import Rows, RowSpec
from harness.engine.step import take_step
from harness.engine.trunk import EAGER_PASSES, Trunk
from harness.method import Method, Recipe

STEPS, RATES = 20, (1e-2, 3e-3, 1e-3, 3e-4)
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs need a GPU")


@given(st.integers(1, 5000))
def test_buckets_add_an_eighth_or_end_at_a_16th(length):
    assert length <= bucket(length) < length + max(16, length / 8 + 1)
    assert bucket(bucket(length)) == bucket(length)


def test_there_are_few_buckets():
    assert len({bucket(length) for length in range(1, 513)}) == 24


def test_on_a_cpu_nothing_is_padded_further_or_captured():
    (batch,) = make_batch([random_examples(4, 0)], 0, CPU).passes
    assert batch.student.ids.shape[1] == max(len(example.ids) for example in random_examples(4, 0))
    trunk = Trunk(packed_model())
    bank = make_bank(trunk.model, trunk.model.layout(2), [0], [1.0])
    for _ in range(EAGER_PASSES + 1):
        trunk.forward(bank.layout, batch.student, bank.values, bank.scaling)
    assert not trunk._graphs
    assert not trunk.failed


def recipe(method: Method, **settings: object) -> Recipe:
    return method.compose(method.settings(**settings).resolved(STEPS))


def mixed() -> list[Recipe]:
    """Arms that share a pack: the same loss, different rules and averages."""
    return [recipe(module.METHOD) for module in (lora, stable_lora, lora_ema, lora_ewc)]


KINDS = {
    "mixed": mixed,
    "taught": lambda: [recipe(module.METHOD) for module in (self_distill, combined)] * 2,
    "by the base": lambda: [recipe(self_distill.METHOD, teacher="base")] * 4,
    "dense": lambda: [recipe(full_finetune.METHOD)] * 4,
    "scaled": lambda: [recipe(dora.METHOD)] * 4,
    "fresh": lambda: [replace(each, between="reinit") for each in mixed()],
}


def train(recipes: list[Recipe], *, capture: bool) -> tuple[torch.Tensor, torch.Tensor, Rows]:
    """Losses [steps, K] and weights [K, P] after two tasks."""
    model = packed_model()
    model.module.to("cuda")
    specs = [RowSpec(each, rate, seed) for seed, (each, rate) in enumerate(zip(recipes, RATES, strict=True))]
    rows = Rows(model, specs, 8, 16.0, OptimizerSettings())
    rows.trunk = Trunk(model, capture=capture)
    losses = []
    for task in range(2):
        examples = [random_examples(8 * STEPS, seed + 10 * task) for seed in range(len(specs))]
        rows.begin_task(task, examples)
        for step in range(STEPS):
            part = slice(8 * step, 8 * step + 8)
            batch = make_batch([each[part] for each in examples], 0, model.device)
            losses.append(take_step(rows, batch, 1.0, step / STEPS)[0])
        captured = len(rows.trunk._graphs)
        assert (captured > 0) == capture, rows.trunk.failed
        rows.end_task()
    return torch.stack(losses).cpu(), torch.stack([rows.weights(i, each) for i, each in enumerate(recipes)]).cpu(), rows


@GPU
@pytest.mark.parametrize("kind", KINDS)
def test_captured_steps_equal_eager_ones(kind):
    recipes = KINDS[kind]()
    eager, weights, _ = train(recipes, capture=False)
    losses, captured, _ = train(recipes, capture=True)
    assert ((losses - eager).abs() <= 2e-5 * (1 + eager.abs())).all()
    assert relative(captured, weights) < 1e-4  # of all: AdamW makes anything of a gradient that is nearly nothing


@GPU
def test_what_cannot_be_captured_runs_eagerly(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Trunk, "_capture", refuse)
    model = packed_model()
    model.module.to("cuda")
    rows = Rows(model, [RowSpec(recipe(lora.METHOD), 1e-3, 0)], 8, 16.0, OptimizerSettings())
    rows.begin_task(0, [random_examples(8, 0)])
    batch = make_batch([random_examples(8, 0)], 0, model.device)
    losses = [take_step(rows, batch, 1.0, 0.5)[0].item() for _ in range(EAGER_PASSES + 3)]
    assert losses == sorted(losses, reverse=True)
    assert rows.trunk.failed == "RuntimeError: operation not permitted when stream is capturing"


@pytest.mark.parametrize(("free", "kept"), [(60, True), (40, False)])
def test_graphs_are_kept_between_tasks_where_there_is_room(free, kept, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 100))
    trunk = Trunk(packed_model())
    trunk.end_task()  # there is nothing to keep, and no GPU to ask
    trunk._graphs["a shape"] = None
    trunk.end_task()
    assert bool(trunk._graphs) == kept


@GPU
def test_graphs_go_with_their_layout():
    _, _, rows = train(KINDS["mixed"](), capture=True)
    assert rows.trunk._graphs
    rows.bank.layout = replace(rows.bank.layout)
    ids = torch.ones(4 * len(rows.specs), 16, dtype=torch.int64, device="cuda")
    rows.trunk.forward(rows.bank.layout, Sequences(ids, ids[:, 0]), rows.bank.values, rows.bank.scaling)
    assert not rows.trunk._graphs
