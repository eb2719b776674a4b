"""Merges of adapters against PEFT's ``add_weighted_adapter``, from the same adapters."""

from __future__ import annotations

import pytest
import torch
from helpers import ALPHA, RANK, packed_model, tiny_model, trainer
from peft import LoraConfig, PeftModel, get_peft_model

from baselines import merge_mean, merge_ties
from harness.engine.adapters.files import export_peft, find_adapter, save_adapters
from harness.engine.model.packed import ALL_LINEAR
from harness.engine.rows import Rows
from harness.method.recipe import Recipe
from harness.study.config import AdapterSettings

TASKS = 3


def merged(recipe: Recipe) -> tuple[Rows, torch.Tensor]:
    """A row with three random adapters behind it, and these [tasks, P]."""
    engine = trainer(packed_model(), [recipe], [1e-3])
    adapters = torch.randn(TASKS, engine.bank.layout.size, generator=torch.Generator().manual_seed(1)) * 0.1
    for task, values in enumerate(adapters):
        if task:
            engine.begin_task(task, [[]])
        engine.bank.values[0] = values
        engine.end_task()
    return engine, adapters


def of_peft(engine: Rows, adapters: torch.Tensor, weights: list[float], **how) -> dict[str, torch.Tensor]:
    """What PEFT's merge of the same does to every matrix, in fp64: of close singular values fp32 mixes directions."""
    config = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=list(ALL_LINEAR))
    model = get_peft_model(tiny_model().double(), config, "0", autocast_adapter_dtype=False)
    for task in range(1, TASKS):
        model.add_adapter(str(task), config)
    names = [str(task) for task in range(TASKS)]
    for slot, pair in zip(engine.model.slots, engine.bank.layout.split(adapters), strict=True):
        layer = model.get_submodule(f"base_model.model.{slot.module}")
        for task, name in enumerate(names):
            layer.lora_A[name].weight.data = pair[0][task].double()
            layer.lora_B[name].weight.data = pair[1][task].double()
    model.add_weighted_adapter(names, weights, "merged", **how)
    layers = ((slot.module, model.get_submodule(f"base_model.model.{slot.module}")) for slot in engine.model.slots)
    return {module: layer.get_delta_weight("merged").detach().float() for module, layer in layers}


def ours(engine: Rows, recipe: Recipe) -> dict[str, torch.Tensor]:
    scored = engine.scored(0, recipe)
    changes = scored.layout.changes(scored.values[None], torch.tensor([scored.scaling]), torch.float32)
    return {slot.module: (c.b @ c.a)[0] for slot, c in zip(scored.layout.slots, changes, strict=True)}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for module, delta in wanted.items():
        assert delta.abs().max() > 0.01, "there is something to be equal to"
        assert torch.allclose(found[module], delta, rtol=0, atol=1e-6), module


@pytest.mark.parametrize(
    ("weights", "each"), [("mean", [1 / 3] * 3), (0.4, [0.4] * 3), ("0.5 0.3 0.2", [0.5, 0.3, 0.2])]
)
def test_sums(weights, each):
    recipe = merge_mean.compose(merge_mean.Settings(weights=weights))
    engine, adapters = merged(recipe)
    assert_same(ours(engine, recipe), of_peft(engine, adapters, each, combination_type="cat"))


@pytest.mark.parametrize(("keep_rank", "of_theirs"), [(RANK, {}), (2 * RANK, {"svd_rank": 2 * RANK})])
@pytest.mark.parametrize(("density", "weight"), [(0.2, 1.0), (0.5, 0.6)])
def test_ties(density, weight, keep_rank, of_theirs):
    """At PEFT's default, the rank of one adapter, and at as large a one as it takes: that of the smallest matrix."""
    recipe = merge_ties.compose(merge_ties.Settings(density=density, weight=weight, keep_rank=keep_rank))
    engine, adapters = merged(recipe)
    wanted = of_peft(engine, adapters, [weight] * TASKS, combination_type="ties_svd", density=density, **of_theirs)
    assert_same(ours(engine, recipe), wanted)


@pytest.mark.parametrize(
    "recipe", [merge_mean.compose(merge_mean.Settings()), merge_ties.compose(merge_ties.Settings())],
    ids=["mean", "ties"],
)  # fmt: skip
def test_an_export_of_a_merge_loads_in_peft(recipe, tmp_path):
    engine, _ = merged(recipe)
    scored = engine.scored(0, recipe)
    settings = AdapterSettings(rank=RANK, alpha=ALPHA, targets=ALL_LINEAR)
    path = tmp_path / "adapters" / "f.safetensors"
    save_adapters(path, scored.layout, [("f", scored.values)], "m", settings, [float(scored.scaling)])
    export_peft(*find_adapter(tmp_path, "f"), tmp_path / "out")
    model = PeftModel.from_pretrained(tiny_model(), tmp_path / "out").eval()
    ids = torch.arange(3, 23).view(2, 10)
    with torch.no_grad(), engine.model.adapted(scored.layout, scored.values[None], torch.tensor([scored.scaling])):
        hidden = engine.model.hidden(ids)
        logits = engine.model.logits(hidden.flatten(0, 1)).view(2, 10, -1)
        assert torch.allclose(model(input_ids=ids).logits, logits, atol=1e-4)
