"""OSF against PEFT's, 20 steps in fp32: the same losses and the same weights, without writing to W0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import batches, packed_model, random_examples, relative, tiny_model, train, trainer, warmup
from peft import OSFConfig, get_peft_model

from baselines import osf
from harness.engine.batches import Example
from harness.engine.model.packed import ALL_LINEAR

RATES = (1e-3, 3e-4)
SIZE, STEPS = 4, 20


def backward(model: torch.nn.Module, examples: list[Example]) -> float:
    """The loss of a padded batch, with clipped gradients on what trains."""
    length = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, example in enumerate(examples):
        tokens = torch.from_numpy(np.asarray(example.ids))
        ids[i, : len(tokens)], mask[i, : len(tokens)] = tokens, 1
        labels[i, example.answer_start : len(tokens)] = tokens[example.answer_start :]
    model.zero_grad()
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    return loss.item()


@pytest.mark.parametrize("preserved", [0.5, 0.75])
def test_osf(preserved):
    recipe = osf.compose(osf.Settings(preserved=preserved))
    examples = [random_examples(SIZE * STEPS, seed, longest=8 + 3 * seed) for seed in range(2)]
    packed = trainer(packed_model(), [recipe] * 2, RATES)
    base = {slot.module: weight.clone() for slot, weight in packed.model.weights()}
    found = train(packed, batches(examples, SIZE, STEPS))
    for row, rate in enumerate(RATES):
        config = OSFConfig(target_modules=list(ALL_LINEAR), effective_rank=preserved)
        model = get_peft_model(tiny_model(), config).eval()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate, weight_decay=0.0)
        for step in range(STEPS):
            loss = backward(model, examples[row][step * SIZE : (step + 1) * SIZE])
            optimizer.param_groups[0]["lr"] = rate * warmup(step)
            optimizer.step()
            assert abs(loss - found[step, row].item()) <= 2e-5 * (1 + abs(loss)), (row, step)
        scored = packed.scored(row, recipe)
        changes = scored.layout.changes(scored.values[None], torch.tensor([scored.scaling]), torch.float32)
        for slot, change in zip(scored.layout.slots, changes, strict=True):
            layer = model.get_submodule(f"base_model.model.{slot.module}")
            wanted = layer.get_delta_weight("default").detach()
            assert wanted.abs().max() > 1e-4
            assert relative((change.b @ change.a)[0], wanted) <= 5e-3, slot.module
    assert packed.model.digest() == packed_model().digest()
    assert all(torch.equal(weight, base[slot.module]) for slot, weight in packed.model.weights())
