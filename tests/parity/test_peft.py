"""The packed engine against PEFT, HF's loss and torch's AdamW, one trial at a time; and a pack against its own rows."""

from __future__ import annotations

import math

import helpers
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

from baselines import rslora
from harness.engine import batches as engine_batches
from harness.engine.adapters.files import export_peft, find_adapter, save_adapters
from harness.method.recipe import MethodSettings, Recipe
from harness.study.config import AdapterSettings

RATES = (1e-3, 3e-4, 1e-4, 3e-5)
SIZE = 4
LORA = Recipe()


def data(rows: int = 4, count: int = 80):
    """Other examples, and other lengths, for every row."""
    return [random_examples(count, seed, longest=8 + 3 * seed) for seed in range(rows)]


def against_peft(
    family: str, steps: int, rates: tuple[float, ...], budget: int = 2**31, *, in_line: bool = False
) -> None:
    examples = data(len(rates))
    packed = trainer(packed_model(family), [LORA] * len(rates), rates)
    start = packed.bank.values.clone()
    steps_of = batches(examples, SIZE, steps, budget, join=packed.model.joins if in_line else 0)
    assert all((each.student.line is not None) == in_line for batch in steps_of for each in batch.passes)
    found = train(packed, steps_of)
    for row, rate in enumerate(rates):
        alone = PeftRun(tiny_model(family), factors(packed, start, row), rate)
        for step in range(steps):
            loss = alone.backward(examples[row][step * SIZE : (step + 1) * SIZE])
            alone.update(warmup(step))
            assert abs(loss - found[step, row].item()) <= 2e-5 * (1 + abs(loss)), (family, row, step)
        for module, pair in factors(packed, packed.bank.values, row).items():
            for name, ours, theirs in zip("AB", pair, alone.factors[module], strict=True):
                assert relative(ours, theirs.detach()) <= 1e-4, (family, row, module, name)
    moved = (packed.bank.values - start).norm(dim=1)
    assert (moved[:-1] > moved[1:]).all(), "every row must have trained, at its own rate"
    assert packed.alive.all()


def test_a_pack_is_four_peft_runs():
    against_peft("llama", 20, RATES)


@pytest.mark.parametrize("budget", [2**31, 64])
def test_trials_in_line_are_peft_runs(budget, monkeypatch):
    monkeypatch.setattr(engine_batches, "LINE_OVERHEAD", 0)
    against_peft("llama", 10, RATES, budget, in_line=True)


def test_passes_of_a_step_add_up_to_it():
    """The budget holds about one example of every row, so that a step takes four passes."""
    assert len(batches(data(2), SIZE, 1, 32)[0].passes) >= 3
    against_peft("llama", 5, RATES[:2], 32)


@pytest.mark.parametrize("family", ["qwen2", "gemma", "gemma2", "mistral"])
def test_other_families(family):
    against_peft(family, 6, RATES[:2])


def test_gemma2_softcap_is_at_work():
    """Guards the test above: with a cap of 3 some logits must be far from linear."""
    model = packed_model("gemma2")
    hidden = model.hidden(torch.arange(3, 11)[None])[0]
    assert model.logits(hidden).abs().max() <= 3.0
    assert model.head(hidden).abs().max() > 3.0


def test_a_row_alone_is_the_row_in_a_pack():
    examples = data()
    packed = trainer(packed_model(), [LORA] * 4, RATES)
    found = train(packed, batches(examples, SIZE, 10))
    for row, rate in enumerate(RATES):
        alone = trainer(packed_model(), [LORA], [rate], [row])
        losses = train(alone, batches([examples[row]], SIZE, 10))[:, 0]
        assert torch.allclose(losses, found[:, row], rtol=1e-5, atol=1e-5)
        assert relative(alone.bank.values[0], packed.bank.values[row]) <= 1e-5


def test_the_order_of_rows_changes_nothing():
    examples, order = data(), [2, 0, 3, 1]
    packed = trainer(packed_model(), [LORA] * 4, RATES)
    found = train(packed, batches(examples, SIZE, 10))
    other = trainer(packed_model(), [LORA] * 4, [RATES[i] for i in order], order)
    losses = train(other, batches([examples[i] for i in order], SIZE, 10))
    assert torch.allclose(losses, found[:, order], rtol=1e-6, atol=1e-6)
    for place, row in enumerate(order):
        assert relative(other.bank.values[place], packed.bank.values[row]) <= 1e-6


@pytest.mark.parametrize("rate", [math.nan, math.inf, 1e30])
def test_a_diverged_row_is_switched_off_and_changes_nobody(rate):
    steps, others = batches(data(), SIZE, 8), [0, 2, 3]
    good = trainer(packed_model(), [LORA] * 4, RATES)
    bad = trainer(packed_model(), [LORA] * 4, [RATES[0], rate, *RATES[2:]])
    start = bad.bank.values.clone()
    wanted, found = train(good, steps), train(bad, steps)
    assert bad.alive.tolist() == [True, False, True, True]
    assert torch.equal(found[:, others], wanted[:, others])
    assert torch.equal(bad.bank.values[others], good.bank.values[others])
    if not math.isfinite(rate):
        assert torch.equal(bad.bank.values[1], start[1]), "a row without a rate stays where it was"


def test_a_row_that_turns_nan_half_way_changes_nobody():
    steps, others = batches(data(), SIZE, 8), [0, 1, 3]
    good, bad = (trainer(packed_model(), [LORA] * 4, RATES) for _ in range(2))
    for engine in (good, bad):
        train(engine, steps[:4])
    bad.bank.values[2].fill_(math.nan)
    wanted, found = train(good, steps[4:]), train(bad, steps[4:])
    assert bad.alive.tolist() == [True, True, False, True]
    assert torch.equal(found[:, others], wanted[:, others])
    assert torch.equal(bad.bank.values[others], good.bank.values[others])


def test_the_base_is_untouched_and_the_digest_would_tell():
    model = packed_model()
    before, weights = model.digest(), {k: v.clone() for k, v in model.module.state_dict().items()}
    train(trainer(model, [LORA] * 4, RATES), batches(data(), SIZE, 3))
    assert model.digest() == before
    assert all(torch.equal(v, weights[k]) for k, v in model.module.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())
    next(iter(model.weights()))[1].data[0, 0] += 1e-6
    assert model.digest() != before


def test_exported_adapters_are_what_peft_computes(tmp_path):
    from peft import PeftModel

    adapter = AdapterSettings(rank=helpers.RANK, alpha=helpers.ALPHA)
    stabilised = rslora.compose(MethodSettings())  # with a scaling of its own
    packed = trainer(packed_model("qwen2"), [LORA, LORA, stabilised], [3e-2] * 3)
    train(packed, batches(data(3), SIZE, 5))
    layout, values = packed.bank.layout, packed.bank.values
    entries = [(f"trial{row}", values[row]) for row in range(3)]
    scalings = packed.bank.scaling.tolist()
    save_adapters(tmp_path / "adapters" / "pack.safetensors", layout, entries, "tiny", adapter, scalings)
    ids = torch.arange(3, 39).view(3, 12)
    plain = tiny_model("qwen2")(input_ids=ids).logits
    with torch.no_grad(), packed.model.adapted(layout, values, packed.bank.scaling):
        wanted = packed.model.logits(packed.model.hidden(ids).flatten(0, 1)).view(3, 12, -1)
    for row in range(3):
        source, place = find_adapter(tmp_path, f"trial{row}")
        export_peft(source, place, tmp_path / f"export{row}")
        loaded = PeftModel.from_pretrained(tiny_model("qwen2"), tmp_path / f"export{row}").eval()
        found = loaded(input_ids=ids[row : row + 1]).logits[0]
        assert torch.allclose(found, wanted[row], rtol=1e-5, atol=2e-5)
        assert (found - plain[row]).abs().max() > 0.05, "the adapter must be at work"
