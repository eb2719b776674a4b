"""What happens between tasks: going on, starting afresh on what is frozen, and starting afresh on nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import batches, packed_model, random_examples, relative, tiny_model, train, trainer

from baselines import dora, lora, lora_ema, o_lora, pissa, single_task, stable_lora
from baselines.o_lora import Orthogonal
from harness.analysis.intruders import DenseChange, analyse, analyse_dense, spectrum
from harness.engine.adapters.bank import AdapterBank
from harness.engine.adapters.files import export_peft, save_adapters
from harness.engine.adapters.layout import Below, DenseLayout, Layout, Slot, joined
from harness.engine.spectra import Spectra
from harness.method.recipe import MethodSettings
from harness.study.config import AdapterSettings

CPU = torch.device("cpu")
LORA = lora.compose(MethodSettings())
SLOTS = (Slot("layers.0.q_proj", 6, 4), Slot("layers.0.down_proj", 4, 12))
IDS = torch.arange(3, 23).view(2, 10)


def after_tasks(recipe, tasks: int, *, rates=(1e-2, 1e-3)):
    """A trainer of two rows at the end of its last task, and what was scored at the end of each."""
    engine = trainer(packed_model(), [recipe] * 2, rates)
    scored = []
    for task in range(tasks):
        examples = [random_examples(20, 10 * task + row) for row in range(2)]
        if task:
            engine.begin_task(task, examples)
        train(engine, batches(examples, 4, 5))
        engine.end_task()
        found = [engine.scored(row, recipe) for row in range(2)]
        scored.append([replace(entry, values=entry.values.clone()) for entry in found])
    return engine, scored


def deltas(model, scored) -> list[torch.Tensor]:
    """W - W0 of every matrix, in fp64."""
    changes = scored.layout.changes(scored.values[None], torch.tensor([scored.scaling]), torch.float32)
    return [change.delta(weight)[0] for (_, weight), change in zip(model.weights(), changes, strict=True)]


def test_reinit_freezes_what_is_scored_and_starts_afresh():
    recipe = stable_lora.compose(stable_lora.Settings(shrink=0.2)).under("reinit")
    engine, ((before, _),) = after_tasks(recipe, 1)
    assert engine.optimizer.step_count == 5
    first = engine.bank.values.clone()
    engine.updates["Shrink"].latched.fill_(True)
    engine.begin_task(1, [random_examples(4, 1)] * 2)
    after = engine.scored(0, recipe)
    assert (before.layout.rank, after.layout.rank) == (8, 16)
    for ours, theirs in zip(deltas(engine.model, after), deltas(engine.model, before), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7), "nothing is scored differently because a task begins"
    a_size = engine.bank.layout.a_size
    assert engine.bank.values[:, :a_size].any()
    assert not engine.bank.values[:, a_size:].any()
    assert relative(engine.bank.values[:, :a_size], first[:, :a_size]) > 0.5, "another draw than for the first task"
    assert engine.optimizer.step_count == 0
    assert not engine.optimizer.mean.any()
    assert not engine.updates["Shrink"].latched.any()


def test_the_rank_grows_by_r_a_task_and_the_earlier_part_stays():
    recipe = LORA.under("reinit")
    engine, scored = after_tasks(recipe, 3)
    assert [row[0].layout.rank for row in scored] == [8, 16, 24]
    for row in range(2):
        second, third = scored[1][row], scored[2][row]
        pairs = zip(second.layout.split(second.values[None]), third.layout.split(third.values[None]), strict=True)
        for (a, b), (all_a, all_b) in pairs:
            assert torch.equal(all_a[:, :16], a)
            assert torch.equal(all_b[:, :, :16], b)
    assert engine.model.digest() == packed_model().digest()


def test_a_scored_average_is_what_is_frozen():
    recipe = lora_ema.compose(lora_ema.Settings(ema_decay=0.9)).under("reinit")
    engine, (((before, _)),) = after_tasks(recipe, 1)
    student = replace(engine.scored(0, LORA), values=engine.bank.values[0].clone())
    engine.begin_task(1, [random_examples(4, 1)] * 2)
    frozen = deltas(engine.model, engine.scored(0, recipe))
    assert all(torch.allclose(x, y, atol=1e-7) for x, y in zip(frozen, deltas(engine.model, before), strict=True))
    assert any(relative(x, y) > 0.1 for x, y in zip(frozen, deltas(engine.model, student), strict=True))
    assert engine.averages["FactorEma"].updates == 0


def test_single_task_keeps_nothing():
    recipe = single_task.compose(MethodSettings())
    engine, _ = after_tasks(recipe, 1)
    engine.begin_task(1, [random_examples(4, 1)] * 2)
    scored = engine.scored(0, recipe)
    assert scored.layout.rank == 8
    assert not any(delta.any() for delta in deltas(engine.model, scored))


def test_arms_that_freeze_other_things_do_not_train_once():
    averaged = lora_ema.compose(lora_ema.Settings(ema_decay=0.9))
    assert LORA.under("continue").training_key == averaged.under("continue").training_key
    assert LORA.under("reinit").training_key != averaged.under("reinit").training_key
    assert LORA.under("reinit").pack_key != LORA.under("continue").pack_key
    own = o_lora.compose(o_lora.Settings())
    assert own.under("continue") is own
    assert own.pack_key == LORA.under("reinit").pack_key
    assert pissa.compose(MethodSettings()).pack_key != LORA.pack_key


@pytest.mark.parametrize("kind", ["low rank", "dense"])
def test_joined_adds_up(kind):
    generator = torch.Generator().manual_seed(0)
    layouts = [Layout(SLOTS, 2), Layout(SLOTS, 3)] if kind == "low rank" else [DenseLayout(SLOTS)] * 2
    parts = [torch.randn(3, layout.size, generator=generator) for layout in layouts]
    both = joined(joined(None, layouts[0], parts[0]), layouts[1], parts[1])
    ones, weight = torch.ones(3), [torch.zeros(slot.out_features, slot.in_features) for slot in SLOTS]

    def whole(layout, values):
        return [c.delta(w) for c, w in zip(layout.changes(values, ones, torch.float64), weight, strict=True)]

    wanted = zip(*(whole(*pair) for pair in zip(layouts, parts, strict=True)), strict=True)
    for found, (first, second) in zip(whole(both.layout, both.values), wanted, strict=True):
        assert torch.allclose(found, first + second, atol=1e-6)


def test_an_adapter_on_frozen_ones_computes_their_sum():
    """The forward pass of training, with the frozen part below it, and that of what is scored."""
    engine, _ = after_tasks(LORA.under("reinit"), 2)
    scored = engine.scored(0, LORA)
    with torch.no_grad(), engine.model.adapted(engine.bank.layout, engine.bank.values, engine.bank.scaling):
        trained = engine.model.hidden(torch.cat([IDS, IDS]))[:2]
    with torch.no_grad(), engine.model.adapted(scored.layout, scored.values[None], torch.ones(1)):
        assert torch.allclose(engine.model.hidden(IDS), trained, atol=1e-5)
    merged = tiny_model()
    for (slot, _), delta in zip(engine.model.weights(), deltas(engine.model, scored), strict=True):
        merged.get_submodule(slot.module).weight.data += delta.float()
    assert torch.allclose(merged.model(input_ids=IDS).last_hidden_state, trained, atol=1e-4)


@pytest.mark.parametrize(
    "recipe",
    [
        LORA.under("reinit"),
        pissa.compose(MethodSettings()),
        dora.compose(MethodSettings()),
        dora.compose(MethodSettings()).under("reinit"),
    ],
    ids=["reinit", "pissa", "dora", "dora on dora"],
)
def test_stacked_factors_are_exported_and_counted(recipe, tmp_path):
    """PEFT computes the same from the export, and intruders are those of a full SVD against the true W0."""
    from peft import PeftModel

    engine, _ = after_tasks(recipe, 2, rates=(3e-2, 1e-2))
    scored, model = engine.scored(0, recipe), engine.model
    file = tmp_path / "pack.safetensors"
    save_adapters(file, scored.layout, [("t", scored.values)], "tiny", AdapterSettings(), [scored.scaling])
    export_peft(file, 0, tmp_path / "peft")
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path / "peft").eval()
    with torch.no_grad(), model.adapted(scored.layout, scored.values[None], torch.tensor([scored.scaling])):
        wanted = model.logits(model.hidden(IDS).flatten(0, 1)).view(2, 10, -1)
    assert torch.allclose(loaded(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-4)

    one = torch.tensor([scored.scaling])
    (found,) = Spectra(model, tmp_path).intruders(scored.layout, scored.values[None], one)
    pairs = zip(model.weights(), deltas(model, scored), strict=True)
    full = analyse_dense(
        [
            DenseChange(spectrum(weight[None]), weight, 1, lambda trials, delta=delta: delta[None][trials])
            for (_, weight), delta in pairs
        ]
    )
    assert found["count"] == full.count().sum()
    assert found["count"] > 0
    assert found["distance"] == pytest.approx(full.distance.mean(), rel=1e-4)
    assert found["delta_norm"] == pytest.approx(full.delta_norm.mean(), rel=1e-4)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_the_dense_count_is_that_of_the_low_rank_one(shape):
    generator = torch.Generator().manual_seed(sum(shape))
    weight = torch.randn(1, 1, *shape, generator=generator).double()
    a, b = torch.randn(1, 1, 2, shape[1], generator=generator), torch.randn(1, 1, shape[0], 2, generator=generator)
    base = spectrum(weight[0])
    change = DenseChange(base, weight[0, 0], 1, lambda trials: (b.double() @ a.double())[0, trials])
    low, dense = analyse(base, a, b), analyse_dense([change])
    for name in ("best", "sigmas"):
        assert getattr(dense, name) == pytest.approx(getattr(low, name), rel=1e-6, abs=1e-6)
    for name in ("delta_norm", "relative_spectral_norm", "effective_rank"):
        assert getattr(dense, name) == pytest.approx(getattr(low, name), rel=1e-5)


# -- O-LoRA -----------------------------------------------------------------------------------------------------------


def test_o_lora_by_hand():
    """One 1 x 2 matrix at rank 1, with A_1 = [1, -2] frozen: |A_1 A_2^T| = |3 - 2 * 4| = 5, its slope -A_1."""
    layout = Layout((Slot("layers.0.q_proj", 1, 2),), 1)
    below = Below(layout, torch.tensor([[1.0, -2.0, 9.0]]).repeat(3, 1))
    bank = AdapterBank(Layout(layout.slots, 1, frozen=below), range(3), [1.0] * 3, CPU)
    bank.values.copy_(torch.tensor([[3.0, 4.0, 7.0]]))
    bound = Orthogonal.bind([Orthogonal(0.5, 0.0), None, Orthogonal(0.0, 10.0)], bank)
    gradient = torch.ones(3, 3)
    bound.penalise(bank, gradient)
    assert gradient[0].tolist() == [1 - 0.5 * 1, 1 + 0.5 * 2, 1.0]
    assert gradient[1].tolist() == [1.0] * 3
    assert gradient[2].tolist() == pytest.approx([1 + 10 * 0.6, 1 + 10 * 0.8, 1 + 10.0]), "A / ||A|| and B / ||B||"


def test_o_lora_s_penalty_is_autograd_s():
    generator = torch.Generator().manual_seed(3)
    below = Below(Layout(SLOTS, 4), torch.randn(2, Layout(SLOTS, 4).size, generator=generator))
    bank = AdapterBank(Layout(SLOTS, 2, frozen=below), range(2), [2.0] * 2, CPU)
    bank.values.copy_(torch.randn(bank.values.shape, generator=generator))
    leaf = bank.values.clone().requires_grad_()
    penalty = torch.zeros(())
    for (a, b), (old, _) in zip(bank.layout.split(leaf), below.layout.split(below.values), strict=True):
        for row in range(2):
            penalty = penalty + 0.7 * (old[row] @ a[row].T).abs().sum() + 0.2 * (a[row].norm() + b[row].norm())
    penalty.backward()
    gradient = torch.zeros_like(bank.values)
    Orthogonal.bind([Orthogonal(0.7, 0.2)] * 2, bank).penalise(bank, gradient)
    assert torch.allclose(gradient, leaf.grad, atol=1e-5)


def test_o_lora_is_plain_lora_on_its_first_task_then_turns_away():
    examples = [random_examples(20, 1)] * 2
    rows = [o_lora.compose(o_lora.Settings(orthogonality=5.0)), LORA.under("reinit")]
    engine, plain = (trainer(packed_model(), pack, [1e-2] * 2, [0, 0]) for pack in (rows, [rows[1]] * 2))
    for each in (engine, plain):
        train(each, batches(examples, 4, 5))
    # Row for row: the two rows of one pack lie differently in memory, which can change a sum's last bit.
    assert torch.equal(engine.bank.values, plain.bank.values)
    engine.begin_task(1, examples)
    train(engine, batches(examples, 4, 5))
    layout, frozen = engine.bank.layout, engine.bank.layout.frozen
    overlap = torch.zeros(2)
    for (a, _), (old, _) in zip(layout.split(engine.bank.values), frozen.layout.split(frozen.values), strict=True):
        overlap += torch.bmm(a, old.mT).abs().sum((1, 2))
    assert overlap[0] < 0.9 * overlap[1]


def test_an_average_goes_on_with_the_decay_of_the_next_task():
    """What it holds and what the optimizer knows stay; from then on it moves by the new decay alone."""
    first, second = (replace(LORA, average=lora_ema.FactorEma(decay), scored="average") for decay in (0.9, 0.5))
    engine = trainer(packed_model(), [first] * 2, (1e-2, 1e-3))
    examples = [random_examples(8, row) for row in range(2)]
    train(engine, batches(examples, 4, 2))
    held, moments = engine.scored(0, first).values.clone(), engine.optimizer.mean.clone()
    engine.become([replace(row, recipe=second) for row in engine.specs])
    assert torch.equal(engine.scored(0, second).values, held)
    assert torch.equal(engine.optimizer.mean, moments)
    assert engine.optimizer.step_count == 2
    train(engine, batches(examples, 4, 1))
    live = engine.scored(0, replace(second, scored="student")).values
    torch.testing.assert_close(engine.scored(0, second).values, held.lerp(live, 0.5))
