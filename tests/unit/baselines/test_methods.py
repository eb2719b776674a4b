"""Each method against its definition, written out the long way."""

from __future__ import annotations

import math

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
from torch.nn import functional as F

from baselines import combined, lora, lora_ema, self_distill, stable_lora
from baselines.lora_ema import FactorEma
from baselines.self_distill import SelfDistillation
from baselines.stable_lora import Shrink
from harness.checks.rules import recipe
from harness.engine.adapters.bank import AdapterBank
from harness.engine.adapters.layout import Layout, Slot
from harness.engine.losses import loss_and_gradient
from harness.engine.step import take_step
from harness.method import CrossEntropy, MethodSettings, Recipe, losses
from harness.method.losses import cross_entropy, kl_student_teacher, kl_teacher_student
from harness.method.registry import methods

CPU = torch.device("cpu")
SIZE = 3
LORA = Recipe()


def data(rows: int):
    return [random_examples(120, seed) for seed in range(rows)]


def small_bank(trials: int = 2, rank: int = 2) -> AdapterBank:
    slots = (Slot("layers.0.q_proj", 6, 4), Slot("layers.0.up_proj", 12, 4), Slot("layers.0.down_proj", 4, 12))
    return AdapterBank(Layout(slots, rank), range(trials), [1.0] * trials, CPU)


def randomise(bank: AdapterBank, seed: int = 0) -> None:
    """Random factors with very different scales of A and B."""
    generator = torch.Generator().manual_seed(seed)
    bank.values.copy_(torch.randn(bank.values.shape, generator=generator))
    for a, b in bank.layout.split(bank.values):
        for factor in (a, b):
            factor *= torch.exp(3 * torch.randn(bank.trials, 1, 1, generator=generator))


# -- Stable-LoRA ------------------------------------------------------------------------------------------------------


def stable_reference(run: PeftRun, examples, shrink: float, steps: int) -> tuple[list[float], dict[str, bool]]:
    """The docstring of baselines/stable_lora.py, one matrix at a time, on PEFT and torch's AdamW."""
    latched, losses = dict.fromkeys(run.factors, False), []
    for step in range(steps):
        losses.append(run.backward(examples[step * SIZE : (step + 1) * SIZE]))  # gradients at A before it shrinks
        for module, (a, b) in run.factors.items():
            with torch.no_grad():
                if latched[module]:
                    continue
                if a.norm() / a.shape[1] <= b.norm() / b.shape[0]:
                    latched[module] = True
                else:
                    a *= 1 - shrink
        run.update(warmup(step))
    return losses, latched


def test_stable_lora_step_by_step():
    shrinks, rates, steps = (0.1, 0.02, None), (4e-3, 2e-3, 4e-3), 18
    recipes = [LORA if shrink is None else Recipe(updates=(Shrink(shrink),)) for shrink in shrinks]
    examples = data(3)
    engine = trainer(packed_model(), recipes, rates)
    start = engine.bank.values.clone()
    found = train(engine, batches(examples, SIZE, steps))
    bound = engine.updates["Shrink"]
    order = [f.slot.module for f in engine.bank.layout.factors[: len(engine.model.slots)]]
    shares = []
    for row, shrink in enumerate(shrinks):
        run = PeftRun(tiny_model(), factors(engine, start, row), rates[row])
        wanted, latched = stable_reference(run, examples[row], shrink or 0.0, steps)
        assert found[:, row].tolist() == pytest.approx(wanted, rel=2e-5, abs=2e-5)
        for module, pair in factors(engine, engine.bank.values, row).items():
            for ours, theirs in zip(pair, run.factors[module], strict=True):
                assert relative(ours, theirs.detach()) <= 1e-4, (row, module)
        if shrink is not None:
            assert dict(zip(order, bound.latched[row].tolist(), strict=True)) == latched
        shares.append(sum(latched.values()) / len(latched))
    assert 0 < shares[0] < 1, f"some matrices must latch, and some not: {shares}"


def test_without_a_shrink_it_is_plain_lora_to_the_bit():
    steps = batches(data(2), SIZE, 8)
    plain = trainer(packed_model(), [LORA] * 2, [1e-2, 1e-3])
    wanted = train(plain, steps)
    engine = trainer(packed_model(), [stable_lora.compose(stable_lora.Settings(shrink=0)), LORA], [1e-2, 1e-3])
    assert torch.equal(train(engine, steps), wanted)
    assert torch.equal(engine.bank.values, plain.bank.values)


def test_a_row_without_the_rule_is_left_alone():
    bank = small_bank(3)
    before = bank.values.clone()
    Shrink.bind([None, Shrink(0.5), None], bank).before_step(bank, torch.ones(3, dtype=torch.bool))
    assert torch.equal(bank.values[[0, 2]], before[[0, 2]])
    a = slice(0, bank.layout.a_size)
    assert torch.equal(bank.values[1, a], before[1, a] * 0.5)


def test_a_row_that_is_off_does_not_shrink():
    bank = small_bank(2)
    before = bank.values.clone()
    Shrink.bind([Shrink(0.5)] * 2, bank).before_step(bank, torch.tensor([True, False]))
    assert torch.equal(bank.values[1], before[1])
    assert not torch.equal(bank.values[0], before[0])


def test_the_latch_stays_shut_and_goes_into_the_checkpoint():
    bank, on = small_bank(1), torch.ones(1, dtype=torch.bool)
    bound = Shrink.bind([Shrink(0.1)], bank)
    bound.before_step(bank, on)
    assert not bound.latched.any()
    grown = bank.layout.split(bank.values)[1][1]  # B of the second slot alone grows
    grown += 100.0
    bound.before_step(bank, on)
    position = [f.slot.module for f in bank.layout.factors[:3]].index("layers.0.up_proj")
    assert bound.latched[0].tolist() == [i == position for i in range(3)]
    grown.zero_()
    before = [a.clone() for a, _ in bank.layout.split(bank.values)]
    other = Shrink.bind([Shrink(0.1)], bank)
    other.load(bound.state())
    other.before_step(bank, on)
    for slot, ((a, _), was) in enumerate(zip(bank.layout.split(bank.values), before, strict=True)):
        assert torch.equal(a, was) == (slot == 1), "latched: as it was; the others: smaller"


def test_both_forms_of_the_stop_rule_agree():
    closed = 0
    for seed in range(40):
        bank = small_bank(4)
        randomise(bank, seed)
        pairs = dict(zip(bank.layout.slots, bank.layout.split(bank.values.clone()), strict=True))
        bound = Shrink.bind([Shrink(0.1)] * 4, bank)
        bound.before_step(bank, torch.ones(4, dtype=torch.bool))
        for position, factor in enumerate(bank.layout.factors[:3]):
            a, b = pairs[factor.slot]
            for row in range(4):
                norm_a, norm_b = a[row].norm(), b[row].norm()
                paper = norm_a / factor.slot.in_features <= norm_b / factor.slot.out_features
                published = norm_a < a[row].numel() / b[row].numel() * norm_b
                assert bound.latched[row, position] == paper == published
                closed += int(paper)
    assert 100 < closed < 380, "both outcomes must occur often"


def test_at_a_constant_rate_it_is_weight_decay_on_a():
    """lambda / lr as decoupled decay of A alone, until the first latch."""
    shrink, rate, steps, examples = 0.03, 5e-4, 12, data(1)
    engine = trainer(packed_model(), [Recipe(updates=(Shrink(shrink),))], [rate])
    run = PeftRun(tiny_model(), factors(engine, engine.bank.values, 0), rate, a_decay=shrink / rate)
    for step, batch in enumerate(batches(examples, SIZE, steps)):
        (loss,), _ = take_step(engine, batch, 1.0, 0.5)
        wanted = run.backward(examples[0][step * SIZE : (step + 1) * SIZE])
        run.update()
        assert loss.item() == pytest.approx(wanted, rel=2e-5, abs=2e-5)
    assert not engine.updates["Shrink"].latched.any()
    for module, pair in factors(engine, engine.bank.values, 0).items():
        for ours, theirs in zip(pair, run.factors[module], strict=True):
            assert relative(ours, theirs.detach()) <= 1e-4


# -- EMA --------------------------------------------------------------------------------------------------------------


def test_the_average_starts_as_a_copy():
    engine = trainer(packed_model(), [lora_ema.compose(lora_ema.Settings(ema_decay=0.9))] * 2, [1e-3] * 2)
    average = engine.averages["FactorEma"]
    assert torch.equal(average.values, engine.bank.values)
    assert average.values.abs().sum() > 0
    assert average.values.data_ptr() != engine.bank.values.data_ptr()


def test_the_average_is_the_formula_with_its_decay():
    averages = [FactorEma(0.5, warm=True), FactorEma(0.98, warm=True), FactorEma(0.15, warm=True), FactorEma(0.9)]
    steps = 25
    recipes = [Recipe(average=average, scored="average") for average in averages]
    engine = trainer(packed_model(), recipes, [1e-2] * 4)
    wanted = engine.bank.values.double().clone()
    for t, batch in enumerate(batches(data(4), SIZE, steps)):
        take_step(engine, batch, 1.0, 0.5)
        for row, average in enumerate(averages):
            decay = min(average.decay, (1 + t) / (10 + t)) if average.warm else average.decay
            wanted[row] = decay * wanted[row] + (1 - decay) * engine.bank.values[row].double()
    for row in range(4):
        found = engine.weights(row, engine.specs[row].recipe)
        assert relative(found.double(), wanted[row]) < 1e-6
        assert relative(found, engine.bank.values[row]) > 1e-4, "the average must lag behind"


def test_the_average_is_fp32_under_bf16_and_moves_by_less():
    model = packed_model(dtype=torch.bfloat16)
    engine = trainer(model, [lora_ema.compose(lora_ema.Settings(ema_decay=0.999))], [1e-5])
    start = engine.bank.values.clone()
    assert model.dtype == torch.bfloat16
    for batch in batches(data(1), SIZE, 3):
        take_step(engine, batch, 1.0, 0.5)
    average = engine.averages["FactorEma"].values
    assert average.dtype == engine.bank.values.dtype == torch.float32
    a = slice(0, engine.bank.layout.a_size)
    moved = average[0, a] != start[0, a]
    assert moved.float().mean() > 0.5
    same = average[0, a].bfloat16() == start[0, a].bfloat16()
    assert (moved & same).float().mean() > 0.5, "these moves would have been lost in bf16"


def test_decay_zero_is_the_student():
    engine = trainer(packed_model(), [lora_ema.compose(lora_ema.Settings(ema_decay=0))], [1e-2])
    train(engine, batches(data(1), SIZE, 4))
    assert torch.equal(engine.weights(0, engine.specs[0].recipe), engine.bank.values[0])


def test_averages_of_factors_and_products_differ_by_covariance():
    """EMA(BA) - EMA(B) EMA(A) = sum_t w_t (B_t - EMA(B)) (A_t - EMA(A)), w_t the weights of the EMA."""
    decay, steps = 0.1, 6
    bank = small_bank(1)
    randomise(bank)
    bound = FactorEma.bind([FactorEma(decay)], [0], bank)
    history = [[(a[0].double(), b[0].double()) for a, b in bank.layout.split(bank.values.clone())]]
    for step in range(steps):
        randomise(bank, step + 1)
        bound.after_step(bank)
        history.append([(a[0].double(), b[0].double()) for a, b in bank.layout.split(bank.values.clone())])
    weights = [decay**steps] + [(1 - decay) * decay ** (steps - 1 - t) for t in range(steps)]
    assert sum(weights) == pytest.approx(1)
    for slot, (a, b) in enumerate(bank.layout.split(bound.values)):
        mean_a, mean_b = a[0].double(), b[0].double()
        past = [entry[slot] for entry in history]
        product = sum(w * (bt @ at) for w, (at, bt) in zip(weights, past, strict=True))
        covariance = sum(w * (bt - mean_b) @ (at - mean_a) for w, (at, bt) in zip(weights, past, strict=True))
        assert relative(product - mean_b @ mean_a, covariance) < 1e-5
        assert relative(product, mean_b @ mean_a) > 1e-2


def test_several_averages_of_one_row():
    """Arms that are only scored differently train once; each finds its own average."""
    slow, fast = FactorEma(0.9), FactorEma(0.2)
    engine = trainer(packed_model(), [LORA, LORA], [1e-2, 1e-2], also=[(slow, fast), (fast,)])
    start = engine.bank.values.clone()
    train(engine, batches(data(2), SIZE, 12))
    alone = trainer(packed_model(), [LORA, LORA], [1e-2, 1e-2])
    train(alone, batches(data(2), SIZE, 12))
    assert torch.equal(engine.bank.values, alone.bank.values), "an average that is only kept changes no training"

    def lag(row, average):
        return relative(engine.weights(row, Recipe(average=average, scored="average")), engine.bank.values[row])

    assert lag(0, slow) > 2 * lag(0, fast) > 0
    assert lag(1, fast) > 0
    assert engine.weights(0, LORA) is not start
    assert torch.equal(engine.weights(0, LORA), engine.bank.values[0])


@pytest.mark.parametrize(("share", "steps", "window"), [
    (None, 64, 10), (None, 512, 77), (None, 12, 4), (None, 1, 4), (0.05, 64, 4), (0.05, 200, 10),
    (0.1, 64, 6), (0.3, 64, 19), (1.0, 64, 64), (3, 64, 192),
])  # fmt: skip
def test_a_window_is_a_share_of_a_task_in_whole_steps(share, steps, window):
    settings = lora_ema.Settings(ema_window=share).resolved(steps)
    assert settings.ema_decay == 1 - 1 / window
    assert settings.ema_window == (0.15 if share is None else share)
    assert settings.resolved(steps) == settings


def test_a_decay_is_taken_as_it_is_and_shown_as_a_window():
    settings = lora_ema.Settings(ema_decay=0.999).resolved(64)
    assert (settings.ema_decay, settings.ema_window) == (0.999, 15.625)
    assert settings.resolved(64) == settings


def test_windows_worth_a_try_differ_in_steps():
    assert lora_ema.Settings.grid(64)["ema_window"] == (0.1, 0.3, 1.0)
    assert lora_ema.Settings.grid(12)["ema_window"] == (0.3, 1.0), "a tenth and three tenths of 12 steps are both 4"
    assert lora_ema.Settings.grid(3)["ema_window"] == (1.0,)


AVERAGING = [name for name, method in methods().items() if issubclass(method.settings, lora_ema.Settings)]


@pytest.mark.parametrize("name", AVERAGING)
def test_every_average_has_the_same_window_by_default(name):
    average = recipe(methods()[name]).average
    assert (average.decay, average.warm) == (0.9, False)


def test_all_arms_that_average_are_known():
    assert set(AVERAGING) == {"lora_ema", "lora_ema_product", "self_distill", "sdft", "combined", "combined_on_policy"}


@pytest.mark.parametrize("name", ["stable_lora", "lora_small_a", "combined", "combined_on_policy"])
def test_every_arm_that_shrinks_has_the_same_lambda(name):
    assert methods()[name].settings().shrink == 1e-3


# -- self-distillation ------------------------------------------------------------------------------------------------

LOG_T = torch.tensor([[1 / 2, 1 / 4, 1 / 4]]).log()
LOG_S = torch.tensor([[1 / 8, 1 / 8, 3 / 4]]).log()
#: By hand: sum p_T log(p_T / p_S) = 1/2 ln 4 + 1/4 ln 2 - 1/4 ln 3, and the other way round.
BY_HAND = {
    "kl_teacher_student": 1.25 * math.log(2) - 0.25 * math.log(3),
    "kl_student_teacher": -0.375 * math.log(2) + 0.75 * math.log(3),
    # beta = 1/4: m = p_T/4 + 3 p_S/4 = (7, 5, 20)/32
    "jsd(0.25)": 0.25 * (0.5 * math.log(16 / 7) + 0.25 * math.log(8 / 5) + 0.25 * math.log(8 / 20))
    + 0.75 * (math.log(4 / 7) / 8 + math.log(4 / 5) / 8 + 0.75 * math.log(24 / 20)),
}


def bound(*weights: float, **settings):
    return SelfDistillation.bind([SelfDistillation(w, **settings) for w in weights], CPU)


@pytest.mark.parametrize("divergence", BY_HAND)
def test_the_direction_of_a_divergence(divergence):
    student, teacher = LOG_S + 3.0, LOG_T - 1.0  # logits are free up to a constant
    found = losses.divergence(divergence)(student, teacher)
    assert found.item() == pytest.approx(BY_HAND[divergence], rel=1e-6)
    assert BY_HAND["kl_teacher_student"] != pytest.approx(BY_HAND["kl_student_teacher"], rel=0.01)
    loss = bound(2.0, divergence=divergence)
    zero = torch.zeros(1, dtype=torch.long)
    total = loss.tokens(student, teacher, torch.tensor([2]), zero, zero)
    assert total.item() == pytest.approx(-math.log(3 / 4) + 2 * BY_HAND[divergence], rel=1e-6)


@pytest.mark.parametrize("divergence", BY_HAND)
def test_nothing_to_learn_from_oneself(divergence):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(20, 50, generator=generator).requires_grad_()
    values = losses.divergence(divergence)(student, student.detach())
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert values.abs().max() <= 1e-7
    assert gradient.abs().max() <= 1e-7


@pytest.mark.parametrize("divergence", BY_HAND)
def test_the_first_step_from_a_fresh_copy_is_plain_lora_s(divergence):
    """The teacher is a copy of the student, so the whole trainer must find neither loss nor gradient in it."""
    settings = self_distill.Settings(ema_decay=0.9, distill_warmup=0, divergence=divergence, distill_weight=5)
    (batch,) = batches(data(1), SIZE, 1)
    plain, engine = (trainer(packed_model(), [r], [1e-2]) for r in (LORA, self_distill.compose(settings)))
    (wanted, _), (found, spent) = take_step(plain, batch, 1.0, 0.0), take_step(engine, batch, 1.0, 0.0)
    assert spent.teacher == spent.student == batch.tokens
    assert found.item() == pytest.approx(wanted.item(), abs=1e-6)
    assert relative(engine.optimizer.mean, plain.optimizer.mean) < 1e-5


def test_temperature_divides_both():
    zero = torch.zeros(1, dtype=torch.long)
    loss = bound(1.0, temperature=2.0)
    found = loss.tokens(2 * LOG_S, 2 * LOG_T, torch.tensor([2]), zero, zero)
    target = F.cross_entropy(2 * LOG_S, torch.tensor([2]))
    assert found.item() - target.item() == pytest.approx(BY_HAND["kl_teacher_student"], rel=1e-5)


def test_skip_tokens_and_the_weight_of_each_row():
    loss = bound(1.0, 0.0, 3.0, skip_tokens=2)
    row = torch.tensor([0, 0, 0, 1, 2, 2])
    position = torch.tensor([0, 1, 2, 5, 1, 3])
    student, teacher, target = LOG_S.expand(6, 3), LOG_T.expand(6, 3), torch.full((6,), 2)
    distilled = loss.tokens(student, teacher, target, row, position) - cross_entropy(student, target)
    expected = torch.tensor([0.0, 0, 1, 0, 0, 3]) * BY_HAND["kl_teacher_student"]
    assert torch.allclose(distilled, expected, atol=1e-6)
    assert torch.equal(loss.tokens(student, None, target, row, position), cross_entropy(student, target))


def test_nothing_is_distilled_before_its_share_of_the_task():
    settings = self_distill.Settings(ema_decay=0.9, distill_warmup=0.25, distill_weight=10)
    steps = batches(data(2), SIZE, 8)
    recipe = self_distill.compose(settings)
    plain, engine = (trainer(packed_model(), [r] * 2, [1e-2] * 2) for r in (LORA, recipe))
    assert torch.equal(train(engine, steps[:4], progress=0.24), train(plain, steps[:4]))
    assert torch.equal(engine.bank.values, plain.bank.values)
    assert take_step(engine, steps[4], 1.0, 0.249)[1].teacher == (0, 0)
    take_step(plain, steps[4], 1.0, 0.249)
    assert torch.equal(engine.bank.values, plain.bank.values)
    losses, spent = take_step(engine, steps[5], 1.0, 0.25)
    wanted, _ = take_step(plain, steps[5], 1.0, 0.25)
    assert spent.teacher == steps[5].tokens
    assert (losses > wanted + 1e-4).all(), "the lagging teacher is now part of the loss"


def test_the_teacher_is_the_average_and_gets_no_gradient():
    """The loss of one step, put together from two forward passes."""
    settings = self_distill.Settings(ema_decay=0.9, distill_warmup=0, distill_weight=2)
    recipe = self_distill.compose(settings)
    *first, last = batches(data(1), SIZE, 6)
    engine = trainer(packed_model(), [recipe], [2e-2])
    train(engine, first)
    model, (batch,) = engine.model, last.passes

    def logits(values):
        with model.adapted(engine.bank.layout, values, engine.bank.scaling):
            return model.logits(model.hidden(batch.student.ids).flatten(0, 1)[batch.student.source])

    values = engine.bank.values.clone().requires_grad_()
    teacher = logits(engine.averages["FactorEma"].values.clone()).detach()
    per_token = cross_entropy(logits(values), batch.target) + 2 * kl_teacher_student(logits(values), teacher)
    per_token.mean().backward()
    before = engine.optimizer.mean.clone()
    found, _ = take_step(engine, last, 1.0, 0.5)
    assert found.item() == pytest.approx(per_token.mean().item(), rel=1e-5)
    clipped = values.grad * min(1.0, 1.0 / (float(values.grad.norm()) + 1e-6))
    assert relative((engine.optimizer.mean - 0.9 * before) / 0.1, clipped) < 1e-4


# -- composition ------------------------------------------------------------------------------------------------------


def test_combined_is_the_parts_of_the_others():
    settings = combined.Settings(shrink=0.01, ema_decay=0.7, distill_weight=0.5, skip_tokens=1)
    shared = settings.model_dump(include=set(self_distill.Settings.model_fields))
    recipe = combined.compose(settings)
    distilled = self_distill.compose(self_distill.Settings(**shared))
    averaged = lora_ema.compose(lora_ema.Settings(ema_decay=0.7))
    assert recipe.adapter == LORA.adapter
    assert recipe.updates == stable_lora.compose(stable_lora.Settings(shrink=0.01)).updates
    assert recipe.average == averaged.average == distilled.average
    assert recipe.scored == averaged.scored == "average"
    assert recipe.loss == distilled.loss
    assert distilled.scored == "student"
    assert distilled.updates == averaged.updates == ()
    # The defaults of a shared setting are the same too, or the arms would differ in more than their parts.
    for other in (stable_lora, lora_ema, self_distill):
        for name, field in other.Settings.model_fields.items():
            assert combined.Settings.model_fields[name].default == field.default, name


def test_what_trains_alike_shares_a_key():
    plain = lora.compose(MethodSettings())
    averaged = lora_ema.compose(lora_ema.Settings(ema_decay=0.9))
    distilled = [self_distill.compose(self_distill.Settings(ema_decay=d)) for d in (0.9, 0.8)]
    shrunk = stable_lora.compose(stable_lora.Settings())
    assert plain.training_key == averaged.training_key
    assert len({r.training_key for r in (plain, shrunk, *distilled)}) == 4
    assert plain.pack_key == averaged.pack_key == shrunk.pack_key
    assert distilled[0].pack_key == distilled[1].pack_key != plain.pack_key
    skipping = self_distill.compose(self_distill.Settings(ema_decay=0.9, skip_tokens=3))
    assert skipping.pack_key != distilled[0].pack_key


def test_a_recipe_cannot_use_an_average_that_it_does_not_keep():
    for broken in ({"scored": "average"}, {"loss": SelfDistillation(1.0)}):
        with pytest.raises(ValueError, match="must keep one"):
            Recipe(**broken)
    assert Recipe(average=FactorEma(0.5), loss=SelfDistillation(1.0)).scored == "student"


def test_scaling_is_alpha_over_rank():
    assert LORA.adapter.scaling(RANK, ALPHA) == 2.0
    assert trainer(packed_model(), [LORA], [1e-3]).bank.scaling.tolist() == [2.0]


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [7, 21, 49, 10**6])  # a token, three and seven of them at a time, all
@pytest.mark.parametrize("kind", ["ce", "kl_teacher_student", "kl_student_teacher"])
def test_loss_and_gradient_are_autograd_s(monkeypatch, kind, chunk):
    monkeypatch.setattr("harness.engine.losses.CHUNK_LOGITS", {"cpu": chunk})
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 5, generator=generator)
    weight, teacher = torch.rand(10, generator=generator), torch.randn(10, 7, generator=generator)
    head = torch.nn.Linear(5, 7).requires_grad_(False)
    target = torch.randint(7, (10,), generator=generator)
    divergence = {"kl_teacher_student": kl_teacher_student, "kl_student_teacher": kl_student_teacher}.get(kind)

    def token_loss(logits, part):
        return divergence(logits, teacher[part]) if divergence else cross_entropy(logits, target[part])

    found, gradient = loss_and_gradient(hidden.clone().requires_grad_(), head, token_loss, weight)
    leaf = hidden.clone().requires_grad_()
    if divergence:
        ours, theirs = head(leaf).log_softmax(-1), teacher.log_softmax(-1)
        pair = (ours, theirs) if kind == "kl_teacher_student" else (theirs, ours)
        reference = F.kl_div(*pair, log_target=True, reduction="none").sum(-1)  # torch's KL(second, first)
    else:
        reference = -head(leaf).log_softmax(-1)[torch.arange(10), target]
    (reference * weight).sum().backward()
    assert torch.allclose(found, reference.detach(), atol=1e-6)
    assert torch.allclose(gradient, leaf.grad, atol=1e-6)
    assert found.dtype == torch.float32
    assert not found.requires_grad


def test_losses_are_fp32_even_from_bf16_states():
    hidden, head = torch.randn(4, 5).bfloat16(), torch.nn.Linear(5, 7).bfloat16().requires_grad_(False)
    seen = []

    def token_loss(logits, part):
        seen.append(logits.dtype)
        return cross_entropy(logits, torch.zeros(4, dtype=torch.long)[part])

    found, gradient = loss_and_gradient(hidden, head, token_loss, torch.ones(4))
    assert seen == [torch.float32]
    assert (found.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)


def test_no_tokens_no_loss():
    found, gradient = loss_and_gradient(
        torch.zeros(0, 5), torch.nn.Linear(5, 7), lambda x, _: x.sum(-1), torch.zeros(0)
    )
    assert found.shape == (0,)
    assert gradient.shape == (0, 5)


def test_plain_lora_is_cross_entropy_of_the_student():
    assert lora.compose(MethodSettings()) == Recipe(loss=CrossEntropy(), scored="student")
