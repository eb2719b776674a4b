"""Full fine-tuning and the EMA of the product: changes that have no low rank."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from helpers import batches, packed_model, random_examples, relative, tiny_model, train, trainer, warmup

from baselines import full_finetune, lora, lora_ema, lora_ema_product, single_task
from baselines.lora_ema_product import ProductEma
from harness.engine.adapters.files import find_adapter, save_adapters
from harness.engine.adapters.layout import DenseLayout, Layout
from harness.errors import InputError
from harness.method.recipe import MethodSettings, Recipe
from harness.method.registry import methods
from harness.study.config import AdapterSettings
from harness.study.load import build_study
from harness.study.memory import dense_rows
from harness.study.plan import Inputs, build_plan

LORA = lora.compose(MethodSettings())
FULL = full_finetune.compose(full_finetune.Settings())
SIZE = 4


# -- full fine-tuning -------------------------------------------------------------------------------------------------


def test_full_fine_tuning_is_torch_s():
    """The same matrices, one trial at a time, with HF's loss, torch's clip and torch's AdamW."""
    rates, steps = (2e-4, 5e-5), 20
    examples = [random_examples(SIZE * steps, row) for row in range(2)]
    engine = trainer(packed_model(), [FULL] * 2, rates)
    found = train(engine, batches(examples, SIZE, steps))
    for row, rate in enumerate(rates):
        model = tiny_model().requires_grad_(False)
        matrices = [model.get_submodule(slot.module).weight.requires_grad_() for slot in engine.model.slots]
        start = [matrix.detach().clone() for matrix in matrices]
        optimizer = torch.optim.AdamW(matrices, rate, weight_decay=0.0)
        for step in range(steps):
            loss = hf_loss(model, examples[row][step * SIZE : (step + 1) * SIZE])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(matrices, 1.0)
            optimizer.param_groups[0]["lr"] = rate * warmup(step)
            optimizer.step()
            assert abs(loss.item() - found[step, row].item()) <= 2e-5 * (1 + loss.item()), (row, step)
        changes = engine.bank.layout.split(engine.bank.values)
        for slot, change, matrix, before in zip(engine.model.slots, changes, matrices, start, strict=True):
            assert relative(change[row], (matrix - before).detach()) <= 1e-2, slot.module


def hf_loss(model, examples) -> torch.Tensor:
    length = max(len(e.ids) for e in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for i, example in enumerate(examples):
        tokens = torch.from_numpy(example.ids)
        ids[i, : len(tokens)] = tokens
        labels[i, example.answer_start : len(tokens)] = tokens[example.answer_start :]
    return model(input_ids=ids, labels=labels).loss


def test_a_dense_change_is_neither_kept_nor_exported(tmp_path):
    engine = trainer(packed_model(), [FULL], [1e-3])
    scored = engine.scored(0, FULL)
    save_adapters(
        tmp_path / "adapters" / "p.safetensors", scored.layout, [("t", scored.values)], "m", AdapterSettings()
    )
    with pytest.raises(InputError, match="no adapter of trial t was kept") as error:
        find_adapter(tmp_path, "t")
    assert "a dense matrix is never kept" in error.value.remedy


# -- EMA of the product -----------------------------------------------------------------------------------------------


def averaged(*recipes: Recipe, steps: int = 12):
    """A trainer after some steps, with the student's (A, B) after each, the start first."""
    engine = trainer(packed_model(), [LORA], [2e-2], also=[tuple(recipe.average for recipe in recipes)])
    seen = [[(a[0].clone(), b[0].clone()) for a, b in engine.bank.layout.split(engine.bank.values)]]
    for step in batches([random_examples(SIZE * steps, 3)], SIZE, steps):
        train(engine, [step])
        seen.append([(a[0].clone(), b[0].clone()) for a, b in engine.bank.layout.split(engine.bank.values)])
    return engine, seen


def weights(decay: float, steps: int, warm: bool = True) -> torch.Tensor:
    """What the average gives to the start and to every step, from its recursion."""
    found = torch.zeros(steps + 1, dtype=torch.float64)
    found[0] = 1
    for t in range(steps):
        own = min(decay, (1 + t) / (10 + t)) if warm else decay
        found *= own
        found[t + 1] = 1 - own
    return found


def deltas(scored) -> list[torch.Tensor]:
    changes = scored.layout.changes(scored.values[None], torch.ones(1), torch.float64)
    return [(c.dense if c.dense is not None else c.b @ c.a)[0] for c in changes]


@pytest.mark.parametrize("warm", [True, False])
def test_product_minus_factors_is_the_covariance(warm):
    product = lora_ema_product.compose(lora_ema_product.Settings(ema_decay=0.8, ema_warmup=warm))
    factors = lora_ema.compose(lora_ema.Settings(ema_decay=0.8, ema_warmup=warm))
    engine, seen = averaged(product, factors)
    share = weights(0.8, len(seen) - 1, warm)
    assert float(share.sum()) == pytest.approx(1)
    gaps = []
    pairs = zip(deltas(engine.scored(0, product)), deltas(engine.scored(0, factors)), strict=True)
    for slot, (of_product, of_factors) in enumerate(pairs):
        a = torch.stack([step[slot][0] for step in seen]).double()
        b = torch.stack([step[slot][1] for step in seen]).double()
        assert relative(of_product, (share[:, None, None] * (b @ a)).sum(0)) < 1e-5
        centred_a = a - (share[:, None, None] * a).sum(0)
        centred_b = b - (share[:, None, None] * b).sum(0)
        covariance = (share[:, None, None] * (centred_b @ centred_a)).sum(0)
        assert relative(of_product - of_factors, covariance) < 1e-2  # fp32 averages, of which it is a small part
        gaps.append(relative(of_factors, of_product))
    assert min(gaps) > 1e-3, "the two averages must differ for this to say anything"


@pytest.mark.parametrize("rank", [1, 8, 32])
def test_a_cut_average_is_best_for_its_rank_and_tells_its_loss(rank):
    dense = lora_ema_product.compose(lora_ema_product.Settings(ema_decay=0.9))
    cut = lora_ema_product.compose(lora_ema_product.Settings(ema_decay=0.9, keep_rank=rank))
    engine, _ = averaged(dense, cut)
    whole, found = deltas(engine.scored(0, dense)), deltas(engine.scored(0, cut))
    assert engine.scored(0, cut).layout == Layout(engine.model.slots, rank)
    lost = total = 0.0
    for of_all, of_cut in zip(whole, found, strict=True):
        values = torch.linalg.svdvals(of_all)
        assert float((of_all - of_cut).norm()) == pytest.approx(float(values[rank:].norm()), rel=1e-2, abs=1e-6)
        lost, total = lost + float(values[rank:].square().sum()), total + float(values.square().sum())
    assert engine.lost_energy(0, cut) == pytest.approx(lost / total, rel=1e-2, abs=1e-6)
    assert engine.lost_energy(0, dense) is engine.lost_energy(0, LORA) is None
    assert (lost / total > 0.01) == (rank == 1)


def test_a_dense_average_trains_with_lora_and_lies_below_later():
    dense = lora_ema_product.compose(lora_ema_product.Settings(ema_decay=0.9))
    assert dense.under("continue").training_key == LORA.under("continue").training_key
    cut = lora_ema_product.compose(lora_ema_product.Settings(ema_decay=0.9, keep_rank=2))
    assert dense.under("reinit").pack_key != cut.under("reinit").pack_key != LORA.under("reinit").pack_key
    engine = trainer(packed_model(), [dense.under("reinit")], [1e-2])
    examples = [random_examples(SIZE * 6, 1)]
    train(engine, batches(examples, SIZE, 6))
    before = [delta.clone() for delta in deltas(engine.scored(0, dense))]
    engine.begin_task(1, examples)
    assert isinstance(engine.bank.layout.frozen.layout, DenseLayout)
    scaled = [2.0 * delta for delta in before]
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(deltas(engine.scored(0, dense)), scaled, strict=True))
    ids = torch.arange(3, 13)[None]
    with torch.no_grad(), engine.model.adapted(engine.bank.layout, engine.bank.values, engine.bank.scaling):
        found = engine.model.hidden(ids)
    merged = tiny_model()
    for slot, delta in zip(engine.model.slots, scaled, strict=True):
        merged.get_submodule(slot.module).weight.data += delta.float()
    assert torch.allclose(merged.model(input_ids=ids).last_hidden_state, found, atol=1e-4)


def test_a_student_on_a_dense_average_is_scored_as_it_trains():
    dense = lora_ema_product.compose(lora_ema_product.Settings(ema_decay=0.9)).under("reinit")
    engine = trainer(packed_model(), [dense], [1e-2])
    for position in range(2):
        examples = [random_examples(SIZE * 6, position)]
        engine.begin_task(position, examples)
        train(engine, batches(examples, SIZE, 6))
    student = engine.scored(0, replace(dense, scored="student"))
    assert isinstance(student.layout, DenseLayout)
    ids, found = torch.arange(3, 13)[None], []
    for layout, values, scaling in (
        (engine.bank.layout, engine.bank.values, engine.bank.scaling),
        (student.layout, student.values[None], torch.tensor([student.scaling])),
    ):
        with torch.no_grad(), engine.model.adapted(layout, values, scaling):
            found.append(engine.model.hidden(ids))
    assert torch.allclose(*found, atol=1e-5)
    average = engine.scored(0, dense)
    assert relative(student.values, average.values) > 1e-3, "the average lags behind it"


# -- packs ------------------------------------------------------------------------------------------------------------


def a_model(folder, parameters: int):
    header = json.dumps({"w": {"dtype": "F32", "shape": [parameters], "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


def test_rows_that_hold_dense_copies_are_fewer(tmp_path):
    data = {"name": "s", "model": "m", "seeds": [0], "streams": {"o": ["a"]}, "methods": {"lora": {}}}
    study, model = build_study(data, where="s"), a_model(tmp_path, 135_000_000)
    rows = dense_rows(study, model, "cpu")
    assert [rows(0), rows(2), rows(7), rows(100)] == [3, 3, 1, 1]
    rows = dense_rows(study, model, "gpu-70")
    assert [rows(0), rows(2), rows(7)] == [32, 32, 11]
    fixed = dense_rows(build_study(data | {"pack": 5}, where="s"), model, "gpu-70")
    assert [fixed(0), fixed(7)] == [5, 5]


def test_a_plan_asks_how_many_fit():
    given = {"lora": {}, "lora_ema_product": {}, "full_finetune": {}, "single_task": {}}
    data = {"name": "s", "model": "m", "seeds": list(range(6)), "streams": {"o": ["a", "b"]}, "methods": given}
    study = build_study(data, where="s")
    inputs = Inputs("m", {"a": "a", "b": "b"}, dict.fromkeys(methods(), "d"))
    found = build_plan(study, methods(), inputs, 6, "s", lambda copies: {0: 6, 3: 3, 7: 1}[copies])
    sizes: dict[str, set[int]] = {}
    for pack in found.packs:
        sizes.setdefault(pack.trials[0].spec.method, set()).add(len(pack.rows))
    assert sizes == {"lora": {3}, "full_finetune": {1}, "single_task": {6}}
    assert single_task.METHOD.name in {trial.spec.method for trial in found.trials}
    assert ProductEma(0.9).dense_copies == 3
