"""Methods that PEFT has, too: the packed engine against PEFT's own, 20 steps in fp32."""

from __future__ import annotations

from typing import Any

import pytest
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

from baselines import lora, lora_plus, rslora
from harness.engine.method import MethodSettings, Recipe

RATES = (1e-3, 3e-4)
SIZE, STEPS = 4, 20


def data(rows: int = len(RATES)):
    return [random_examples(SIZE * STEPS, seed, longest=8 + 3 * seed) for seed in range(rows)]


def against_peft(recipe: Recipe, **peft: Any) -> None:
    """Losses of every step and the factors at the end, of rows that have plain LoRA as their neighbour."""
    examples = data(len(RATES) + 1)
    packed = trainer(packed_model(), [recipe, recipe, lora.compose(MethodSettings())], [*RATES, 1e-3])
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
