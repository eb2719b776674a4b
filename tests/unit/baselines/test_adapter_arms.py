"""Arms that change the adapter or its rates: where they start, how they are scaled, and who shares a pack."""

from __future__ import annotations

import pytest
import torch
from helpers import ALPHA, RANK, Operations, batches, packed_model, random_examples, trainer

from baselines import dora, full_finetune, lora, lora_plus, lora_small_a, rslora, stable_lora
from harness.engine.step import take_step
from harness.method.recipe import MethodSettings, Recipe

LORA = lora.compose(MethodSettings())


def test_a_small_a_is_a_times_the_shrink_of_the_first_task():
    settings = lora_small_a.Settings(shrink=0.01).resolved(64)
    assert settings.shrink_steps == 64
    assert lora_small_a.Settings(shrink_steps=3).resolved(64).shrink_steps == 3
    engine = trainer(packed_model(), [lora_small_a.compose(settings), LORA], [1e-3] * 2, [5, 5])
    small, plain = engine.bank.values
    size = engine.bank.layout.a_size
    assert torch.allclose(small[:size], plain[:size] * 0.99**64)
    assert not small[size:].any()


def test_scalings_by_row():
    rows = [rslora.compose(MethodSettings()), LORA]
    assert trainer(packed_model(), rows, [1e-3] * 2).bank.scaling.tolist() == pytest.approx([ALPHA / RANK**0.5, 2.0])


def test_dora_builds_no_merged_weights():
    """Nothing in a step, its gradient included, has the size of a matrix a row; of a dense change everything has."""

    def merged(arm: Recipe) -> set[tuple[int, ...]]:
        model = packed_model()
        engine = trainer(model, [arm] * 3, [1e-3] * 3)
        [step] = batches([random_examples(5, seed) for seed in range(3)], 5, 1)
        with Operations() as seen:
            take_step(engine, step, 1.0, 0.5)
        sizes = {(3, *shape) for _, weight in model.weights() for shape in (weight.shape, weight.T.shape)}
        return sizes & {shape for _, shape in seen.found}

    assert merged(full_finetune.compose(full_finetune.Settings()))
    assert merged(LORA) == merged(dora.compose(MethodSettings())) == set()


def test_arms_of_one_adapter_shape_share_packs_and_never_rows():
    arms = [
        LORA,
        rslora.compose(MethodSettings()),
        lora_plus.compose(lora_plus.Settings()),
        lora_small_a.compose(lora_small_a.Settings(shrink_steps=9)),
        stable_lora.compose(stable_lora.Settings()),
    ]
    assert len({arm.pack_key for arm in arms}) == 1
    assert len({arm.training_key for arm in arms}) == len(arms)
    assert Recipe(adapter=None).pack_key != LORA.pack_key
