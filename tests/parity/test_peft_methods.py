"""Methods that PEFT has, too: the packed engine against PEFT's own, 20 steps in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import (
    PeftRun,
    batches,
    factors,
    packed_model,
    random_examples,
    relative,
    tiny_model,
    train,
    trainer,
    warmup,
)

from baselines import lora, lora_plus, pissa, rslora
from harness.engine.method import MethodSettings, Recipe

LORA = lora.compose(MethodSettings())
RATES = (1e-3, 3e-4)
SIZE, STEPS = 4, 20


def data(rows: int = len(RATES)):
    return [random_examples(SIZE * STEPS, seed, longest=8 + 3 * seed) for seed in range(rows)]


def against_peft(recipe: Recipe, **peft: Any) -> None:
    """Losses of every step and the factors at the end, of rows that may have plain LoRA as their neighbour."""
    examples = data(len(RATES) + 1)
    neighbour = LORA if recipe.pack_key == LORA.pack_key else recipe
    packed = trainer(packed_model(), [recipe, recipe, neighbour], [*RATES, 1e-3])
    start = packed.bank.values.clone()
    found = train(packed, batches(examples, SIZE, STEPS))
    for row, rate in enumerate(RATES):
        alone = PeftRun(tiny_model(), factors(packed, start, row), rate, **peft)
        for step in range(STEPS):
            loss = alone.backward(examples[row][step * SIZE : (step + 1) * SIZE])
            alone.update(warmup(step))
            assert abs(loss - found[step, row].item()) <= 2e-5 * (1 + abs(loss)), (row, step)
        for module, pair in factors(packed, packed.bank.values, row).items():
            for name, ours, theirs in zip("AB", pair, alone.factors[module], strict=True):
                assert relative(ours, theirs.detach()) <= 1e-4, (row, module, name)
    assert packed.alive.all()


def test_rslora():
    against_peft(rslora.compose(MethodSettings()), use_rslora=True)


@pytest.mark.parametrize("ratio", [16.0, 4.0])
def test_lora_plus(ratio):
    against_peft(lora_plus.compose(lora_plus.Settings(ratio=ratio)), b_ratio=ratio)


def test_pissa():
    """From PEFT's own start and on PEFT's own residual base: signs of singular vectors may differ, products may not."""
    recipe, examples = pissa.compose(MethodSettings()), data()
    packed = trainer(packed_model(), [recipe] * 2, RATES)
    base = {slot.module: weight.clone() for slot, weight in packed.model.weights()}
    found = train(packed, batches(examples, SIZE, STEPS))
    for row, rate in enumerate(RATES):
        alone = PeftRun(tiny_model(), list(base), rate, init_lora_weights="pissa")
        for step in range(STEPS):
            loss = alone.backward(examples[row][step * SIZE : (step + 1) * SIZE])
            alone.update(warmup(step))
            assert abs(loss - found[step, row].item()) <= 2e-5 * (1 + abs(loss)), (row, step)
        scored = packed.scored(row, recipe)
        one = torch.tensor([scored.scaling])
        for slot, change in zip(
            scored.layout.slots, scored.layout.changes(scored.values[None], one, torch.float32), strict=True
        ):
            a, b = alone.factors[slot.module]
            residual = alone.model.get_submodule(f"base_model.model.{slot.module}").base_layer.weight
            delta = residual + 2.0 * b @ a - base[slot.module]
            assert relative((change.b @ change.a)[0], delta.detach()) <= 2e-3, slot.module
    assert packed.model.digest() == packed_model().digest()
