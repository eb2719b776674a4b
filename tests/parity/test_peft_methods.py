"""Methods that PEFT has, too: the packed engine against PEFT's own, 20 steps in fp32."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
from helpers import (
    ALPHA,
    RANK,
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

from baselines import corda, dora, eva, lora, lora_fa, lora_plus, mica, olora, pissa, rslora
from harness.engine.batches import Example
from harness.engine.model.packed import ALL_LINEAR
from harness.method.recipe import MethodSettings, Recipe
from harness.study.seeds import derive

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


@pytest.mark.parametrize("projected", [True, False])
def test_lora_fa(projected, monkeypatch):
    """PEFT's optimizer, in fp32 as well where it would take bf16; or AdamW on a B whose A stays."""
    from peft.optimizers import create_lorafa_optimizer, lorafa

    monkeypatch.setattr(lorafa, "is_bf16_available", lambda: False)

    def of_peft(rate: float, model: torch.nn.Module) -> torch.optim.Optimizer:
        made = create_lorafa_optimizer(model, r=RANK, lora_alpha=int(ALPHA), lr=rate)
        return made if projected else torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), rate,
                                                        weight_decay=0.0)  # fmt: skip

    recipe, examples = lora_fa.compose(lora_fa.Settings(projected=projected)), data()
    packed = trainer(packed_model(), [recipe] * 2, RATES)
    start = packed.bank.values.clone()
    found = train(packed, batches(examples, SIZE, STEPS))
    for row, rate in enumerate(RATES):
        alone = PeftRun(tiny_model(), factors(packed, start, row), rate, optimize=partial(of_peft, rate))
        for step in range(STEPS):
            loss = alone.backward(examples[row][step * SIZE : (step + 1) * SIZE])
            alone.update(warmup(step))
            assert abs(loss - found[step, row].item()) <= 2e-5 * (1 + abs(loss)), (row, step)
        for module, (a, b) in factors(packed, packed.bank.values, row).items():
            assert torch.equal(a, factors(packed, start, row)[module][0])
            assert relative(b, alone.factors[module][1].detach()) <= 1e-3, (row, module)


OWN_STARTS = {"pissa": pissa.compose(pissa.Settings()), "olora": olora.compose(olora.Settings()),
              "mica": mica.compose(MethodSettings())}  # fmt: skip


@pytest.mark.parametrize("name", list(OWN_STARTS))
def test_from_pefts_own_start(name):
    """And on PEFT's own residual base: signs of singular vectors may differ, products may not."""
    recipe, examples = OWN_STARTS[name], data()
    packed = trainer(packed_model(), [recipe] * 2, RATES)
    base = {slot.module: weight.clone() for slot, weight in packed.model.weights()}
    found = train(packed, batches(examples, SIZE, STEPS))
    for row, rate in enumerate(RATES):
        alone = PeftRun(tiny_model(), list(base), rate, init_lora_weights=name)
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


def text(task: str, seed: int) -> list:
    """Documents of 20 to 40 random tokens: enough for covariances that can be inverted in fp32."""
    return [whole(example) for example in random_examples(60, 1000 + seed % 1000, shortest=20, longest=40)]


def whole(example):
    return Example(example.ids, 1)


def test_corda():
    """From PEFT's covariances, decompositions and start, on its own residual base."""
    from peft import LoraConfig
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    recipe, examples = corda.compose(corda.Settings(text_tokens=10**6)), data()
    packed = trainer(packed_model(), [recipe] * 2, RATES, texts=text)
    found = train(packed, batches(examples, SIZE, STEPS))
    for row, rate in enumerate(RATES):
        how: dict[str, Any] = {"init_lora_weights": "corda", "corda_config": CordaConfig(corda_method="kpm")}
        base, documents = tiny_model(), text("", derive(row, "text"))

        def read(base=base, documents=documents) -> None:
            for document in documents:
                base(torch.from_numpy(document.ids)[None])

        settings = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=list(ALL_LINEAR), **how)
        preprocess_corda(base, settings, run_model=read)
        alone = PeftRun(base, [], rate, **how)
        for step in range(STEPS):
            loss = alone.backward(examples[row][step * SIZE : (step + 1) * SIZE])
            alone.update(warmup(step))
            assert abs(loss - found[step, row].item()) <= 2e-5 * (1 + abs(loss)), (row, step)
    assert packed.model.digest() == packed_model().digest()


def eva_state(base, examples, config) -> dict[str, torch.Tensor]:
    """PEFT's own directions, from one batch that it goes over until it has converged."""
    from peft import get_peft_model
    from peft.tuners.lora import get_eva_state_dict

    model = get_peft_model(base, config, low_cpu_mem_usage=True).eval()
    length = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, example in enumerate(examples):
        tokens = torch.from_numpy(example.ids)
        ids[i, : len(tokens)], mask[i, : len(tokens)] = tokens, 1
        labels[i, example.answer_start : len(tokens)] = tokens[example.answer_start :]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return get_eva_state_dict(model, [batch], show_progress_bar=False)


@pytest.mark.parametrize("rho", [1.0, 2.0])
def test_eva(rho):
    """PEFT's ranks and subspaces from the same examples; then its training, from our directions."""
    from peft import EvaConfig, LoraConfig, initialize_lora_eva_weights

    recipe, examples = eva.compose(eva.Settings(rho=rho)), data()
    packed = trainer(packed_model(), [recipe] * 2, RATES, examples=examples)
    start = packed.bank.values.clone()
    found = train(packed, batches(examples, SIZE, STEPS))
    for row, rate in enumerate(RATES):
        settings = {"init_lora_weights": "eva", "eva_config": EvaConfig(rho=rho)}
        config = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=list(ALL_LINEAR), **settings)
        wanted, ours, ranks = eva_state(tiny_model(), examples[row], config), {}, {}
        for module, (a, _) in factors(packed, start, row).items():
            own, theirs = a[a.any(1)], wanted[f"base_model.model.{module}"]
            ours[f"base_model.model.{module}"] = own
            group = re.sub(r"(q|k|v|gate|up)_proj", "same input", module)  # ties: PEFT takes any of them
            ranks[group] = ranks.get(group, 0) + len(own) - len(theirs)
            both = min(len(own), len(theirs)) - 1  # the last may be close to the next
            cosines = torch.linalg.svdvals(own[: both + 1] @ theirs[: both + 1].T.float())
            assert (cosines[:both] > 0.99).all(), module
        assert not any(ranks.values()), ranks
        if rho > 1:
            assert len({len(own) for own in ours.values()}) > 2, "ranks must have been redistributed"
        load = partial(initialize_lora_eva_weights, eva_state_dict=ours)
        alone = PeftRun(tiny_model(), [], rate, prepare=load, **settings)
        for step in range(STEPS):
            loss = alone.backward(examples[row][step * SIZE : (step + 1) * SIZE])
            alone.update(warmup(step))
            assert abs(loss - found[step, row].item()) <= 2e-5 * (1 + abs(loss)), (row, step)


def test_dora():
    recipe = dora.compose(MethodSettings())
    against_peft(recipe, use_dora=True)
    packed = trainer(packed_model(), [recipe], [1e-2])
    before = packed.bank.values.clone()
    train(packed, batches(data(1), SIZE, 3))
    now, then = (packed.bank.layout.vector("magnitude", values) for values in (packed.bank.values, before))
    moved = zip(now, then, strict=True)
    assert all((now != then).any() for now, then in moved)
