"""Who teaches, on whose answers, with what in its prompt: each step against plain PyTorch, one sequence at a time."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import (
    ALPHA,
    CPU,
    RANK,
    batches,
    packed_model,
    random_examples,
    relative,
    tiny_model,
    train,
    trainer,
    with_demonstrations,
)
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from baselines import combined_on_policy, lora_ema, pissa, sdft, self_distill, stable_lora
from harness.engine.batches import Example, make_batch
from harness.engine.step import take_step
from harness.errors import InputError
from harness.method import BoundLoss, Loss, Recipe, Sampling, losses
from harness.method.prompts import fill_teacher_prompt
from harness.method.registry import methods
from harness.study.arms import expand_arms
from harness.study.config import Study

SIZE, END = 3, 0
KINDS = ("base", "snapshot", "ema", "live")


def plain_divergence(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    """torch's ``kl_div(q, p)`` is KL(p || q)."""
    log_s, log_t = student.log_softmax(-1), teacher.log_softmax(-1)

    def kl(p: Tensor, q: Tensor) -> Tensor:
        return F.kl_div(q, p, log_target=True, reduction="none").sum(-1)

    if name.startswith("jsd"):
        beta = float(name[4:-1])
        mean = (beta * log_t.exp() + (1 - beta) * log_s.exp()).log()
        return beta * kl(log_t, mean) + (1 - beta) * kl(log_s, mean)
    return kl(log_t, log_s) if name == "kl_teacher_student" else kl(log_s, log_t)


class Plain:
    """The step of one row with nothing of ours: merged weights, whole sequences, no padding, no cache, no chunks."""

    def __init__(self, engine, row: int) -> None:
        self.model, self.engine, self.row = tiny_model(), engine, row
        self.values = engine.bank.values[row].clone().requires_grad_()

    def logits(self, values: Tensor | None, prompt: np.ndarray, answer: np.ndarray) -> Tensor:
        """Logits [answer, V] that predict the answer's tokens."""
        weights = {}
        if values is not None:
            pairs = self.engine.bank.layout.split(values[None])
            for slot, (a, b) in zip(self.engine.model.slots, pairs, strict=True):
                base = self.model.get_submodule(slot.module).weight
                weights[f"{slot.module}.weight"] = base + ALPHA / RANK * b[0] @ a[0]
        ids = torch.from_numpy(np.concatenate([prompt, answer]))[None]
        whole = functional_call(self.model, weights, (ids,)).logits[0]
        return whole[len(prompt) - 1 : len(prompt) + len(answer) - 1]

    @torch.no_grad()
    def own_answer(self, prompt: np.ndarray, given: np.ndarray, most: int) -> np.ndarray:
        """Greedy, token by token."""
        most, said = (most if given[-1] == END else min(most, len(given))), []
        while len(said) < most and END not in said:
            asked = np.array([*prompt, *said])
            said.append(int(self.logits(self.values, asked, np.array([END]))[0].argmax()))
        return np.array(said)

    def loss(self, examples: list[Example], settings, teacher: Tensor | None) -> Tensor:
        """``settings`` of self_distill or sdft; ``teacher`` [P] or none for the base."""
        imitates = isinstance(settings, self_distill.Settings)
        weight = settings.distill_weight if imitates else 1.0
        ce, given, own = [], [], []
        for example in examples:
            prompt, answer = example.prompt, example.answer
            if imitates:
                found = self.logits(self.values, prompt, answer)
                ce.append(F.cross_entropy(found, torch.from_numpy(answer), reduction="none"))
            if settings.tokens == "own":
                answer = self.own_answer(prompt, answer, settings.sample_tokens)
            with torch.no_grad():
                asked = example.shown if settings.demonstration else prompt
                taught = self.logits(teacher, asked, answer) / settings.temperature
            student = self.logits(self.values, prompt, answer) / settings.temperature
            apart = plain_divergence(settings.divergence, student, taught)
            apart = torch.where(torch.arange(len(answer)) < settings.skip_tokens, 0.0, apart)
            (own if settings.tokens == "own" else given).append(apart)
        total = torch.cat(ce).mean() if ce else 0.0
        if given:
            total = total + weight * torch.cat(given).mean()
        if own:
            total = total + weight * torch.stack([answer.mean() for answer in own]).mean()
        return total


def settle(*rows, teacher_steps: int = 6):
    """An engine with a row for each of these settings (twice the one given) that has trained for a while, with a
    task's start on the way, and its next step."""
    rows = rows if len(rows) > 1 else rows * 2
    data = [with_demonstrations(mixed(40, seed)) for seed in range(len(rows))]
    for row, settings in enumerate(rows):
        if not settings.demonstration:
            data[row] = [Example(e.ids, e.answer_start) for e in data[row]]
    *first, last = batches(data, SIZE, teacher_steps + 1, budget=45 * len(rows))
    engine = trainer(packed_model(), [recipe(settings) for settings in rows], [3e-2, 1e-2] * (len(rows) // 2))
    train(engine, first[:3])
    engine.begin_task(1, data)
    start = engine.bank.values.clone()
    train(engine, first[3:])
    return engine, last, start


def recipe(settings) -> Recipe:
    return (sdft if isinstance(settings, sdft.Settings) else self_distill).compose(settings)


def mixed(count: int, seed: int) -> list[Example]:
    """Answers that end and answers that don't, of one to four tokens."""
    examples = random_examples(count, seed)
    return [Example(np.append(e.ids, END), e.answer_start) if i % 2 else e for i, e in enumerate(examples)]


def check(*rows) -> None:
    engine, batch, start = settle(*rows)
    rows = rows if len(rows) > 1 else rows * 2
    kinds = {"snapshot": start, "ema": engine.averages["FactorEma"].values, "live": engine.bank.values}
    teachers = [kinds[s.teacher][k].clone() if s.teacher in kinds else None for k, s in enumerate(rows)]
    plain = [Plain(engine, row) for row in range(len(rows))]
    each = zip(plain, batch.rows, rows, teachers, strict=True)
    wanted = [one.loss(list(examples), settings, teacher) for one, examples, settings, teacher in each]
    before = engine.optimizer.mean.clone()
    found, spent = take_step(engine, batch, 1.0, 0.5)
    for row, (one, loss) in enumerate(zip(plain, wanted, strict=True)):
        assert found[row].item() == pytest.approx(loss.item(), rel=2e-5, abs=2e-6)
        loss.backward()
        clipped = one.values.grad * min(1.0, 1.0 / (float(one.values.grad.norm()) + 1e-6))
        ours = (engine.optimizer.mean[row] - 0.9 * before[row]) / 0.1
        assert (ours - clipped).norm() <= 2e-4 * clipped.norm() + 1e-6
    assert min(spent.teacher) > 0
    assert (min(spent.sampled) > 0) == (min(spent.prompt) > 0) == (rows[0].tokens == "own")


@pytest.mark.parametrize("tokens", ["given", "own"])
@pytest.mark.parametrize("demonstration", [False, True])
@pytest.mark.parametrize("teacher", KINDS)
def test_self_distillation_is_plain_pytorch_s(teacher, demonstration, tokens):
    check(self_distill.Settings(
        teacher=teacher, demonstration=demonstration, tokens=tokens, sample_temperature=0, sample_tokens=5,
        ema_decay=0.9, distill_weight=2, distill_warmup=0,
    ))  # fmt: skip


@pytest.mark.parametrize("tokens", ["given", "own"])
@pytest.mark.parametrize("teacher", KINDS)
def test_sdft_is_plain_pytorch_s(teacher, tokens):
    check(sdft.Settings(teacher=teacher, tokens=tokens, sample_temperature=0, sample_tokens=5, ema_decay=0.9))


@pytest.mark.parametrize("tokens", ["given", "own"])
def test_rows_of_a_pack_have_teachers_of_their_own(tokens):
    shared = {"tokens": tokens, "sample_temperature": 0, "sample_tokens": 5, "ema_decay": 0.9, "distill_warmup": 0}
    rows = [
        self_distill.Settings(teacher=teacher, demonstration=demonstration, **shared)
        for teacher in KINDS
        for demonstration in (False, True)
    ]
    assert len({recipe(settings).pack_key for settings in rows}) == 1
    check(*rows)


@pytest.mark.parametrize("divergence", ["kl_student_teacher", "jsd(0.3)"])
def test_sdft_with_other_divergence_temperature_and_skips(divergence):
    check(sdft.Settings(
        divergence=divergence, temperature=1.7, skip_tokens=1, sample_temperature=0, sample_tokens=6, ema_decay=0.9
    ))  # fmt: skip


def test_answers_are_drawn_where_the_temperature_is_not_zero():
    settings = sdft.Settings(ema_decay=0.9)
    engine, batch, _ = settle(settings)
    twin, again, _ = settle(settings)
    other, _, _ = settle(settings)
    reseeded = make_batch(batch.rows, END, CPU, batch.budget, seeds=[seed + 1 for seed in batch.seeds])
    (a, _), (b, _), (c, _) = (
        take_step(engine, batch, 1, 0.5),
        take_step(twin, again, 1, 0.5),
        take_step(other, reseeded, 1, 0.5),
    )
    assert torch.equal(a, b)
    assert not torch.isclose(a, c).any()


# -- one teacher or another -------------------------------------------------------------------------------------------


def test_a_tasks_start_takes_the_snapshot_a_checkpoint_keeps_it():
    settings = self_distill.Settings(teacher="snapshot", ema_decay=0.9, distill_warmup=0)
    engine, batch, start = settle(settings)
    assert torch.equal(engine.starts, start)
    assert relative(engine.bank.values, start) > 1e-3
    state = {name: tensor.clone() for name, tensor in engine.state().items()}
    wanted, _ = take_step(engine, batch, 1.0, 0.5)
    fresh = trainer(packed_model(), [row.recipe for row in engine.specs], [3e-2, 1e-2], [8, 9])
    fresh.load(state)
    found, _ = take_step(fresh, batch, 1.0, 0.5)
    assert torch.equal(found, wanted)
    assert torch.equal(fresh.bank.values, engine.bank.values)


@pytest.mark.parametrize("tokens", ["given", "own"])
def test_a_live_teacher_that_sees_the_same_teaches_nothing(tokens):
    """Neither loss nor gradient: what is left is plain LoRA."""
    settings = self_distill.Settings(teacher="live", tokens=tokens, ema_decay=0.9, distill_warmup=0, distill_weight=50)
    (batch,) = batches([mixed(4, 0)], 4, 1)
    plain, engine = (trainer(packed_model(), [r], [1e-2]) for r in (Recipe(), self_distill.compose(settings)))
    (wanted, _), (found, _) = take_step(plain, batch, 1.0, 0.0), take_step(engine, batch, 1.0, 0.0)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-5)
    assert relative(engine.optimizer.mean, plain.optimizer.mean) < 1e-4


def test_teachers_share_a_pack_where_answers_are_of_one_kind():
    keys = {
        (kind, tokens): recipe(self_distill.Settings(teacher=kind, tokens=tokens, ema_decay=0.9)).pack_key
        for kind, tokens in itertools.product(KINDS, ("given", "own"))
    }
    assert len(set(keys.values())) == len({keys["base", "given"], keys["base", "own"]}) == 2
    with_it = self_distill.Settings(teacher="ema", tokens="own", demonstration=True, ema_decay=0.5)
    assert recipe(with_it).pack_key == keys["ema", "own"]


@pytest.mark.parametrize("changes", [{"between": "reinit"}, {"adapter": pissa.Principal()}])
def test_a_base_with_something_frozen_shares_no_pack(changes):
    base, snapshot = (recipe(self_distill.Settings(teacher=kind, ema_decay=0.9)) for kind in ("base", "snapshot"))
    assert base.pack_key == snapshot.pack_key
    assert replace(base, **changes).pack_key != replace(snapshot, **changes).pack_key


def test_rows_with_and_without_demonstration_stand_side_by_side():
    shown, hidden = (
        self_distill.compose(self_distill.Settings(demonstration=d, ema_decay=0.9, distill_warmup=0))
        for d in (True, False)
    )
    examples = mixed(24, 0)
    data = [with_demonstrations(examples), examples]
    engine = trainer(packed_model(), [shown, hidden], [1e-2] * 2, [0, 0])
    found = train(engine, batches(data, SIZE, 6))
    for row, recipe in enumerate((shown, hidden)):
        alone = trainer(packed_model(), [recipe], [1e-2], [0])
        assert torch.allclose(train(alone, batches([data[row]], SIZE, 6))[:, 0], found[:, row], atol=1e-5)
    assert not torch.allclose(found[:, 0], found[:, 1], atol=1e-2)


def test_before_its_share_of_the_task_nobody_samples():
    settings = self_distill.Settings(tokens="own", ema_decay=0.9, distill_warmup=0.25)
    (batch,) = batches([mixed(4, 0)], 4, 1)
    plain, engine = (trainer(packed_model(), [r], [1e-2]) for r in (Recipe(), self_distill.compose(settings)))
    (wanted, _), (found, spent) = take_step(plain, batch, 1.0, 0.2), take_step(engine, batch, 1.0, 0.2)
    assert torch.equal(found, wanted)
    assert spent.sampled == spent.prompt == spent.teacher == (0,)


def test_sdft_spends_tokens_on_own_answers_alone():
    engine, batch, _ = settle(sdft.Settings(sample_temperature=0, sample_tokens=5, ema_decay=0.9))
    _, spent = take_step(engine, batch, 1.0, 0.5)
    prompts = tuple(sum(e.answer_start for e in trial) for trial in batch.rows)
    shown = tuple(sum(len(e.shown) for e in trial) for trial in batch.rows)
    assert spent.prompt == prompts
    assert spent.student == tuple(map(sum, zip(prompts, spent.sampled, strict=True)))
    assert spent.teacher == tuple(map(sum, zip(shown, spent.sampled, strict=True)))
    both, batch, _ = settle(self_distill.Settings(tokens="own", sample_temperature=0, ema_decay=0.9, distill_warmup=0))
    _, more = take_step(both, batch, 1.0, 0.5)
    assert more.student == tuple(a + b + c for a, b, c in zip(batch.tokens, prompts, more.sampled, strict=True))


def test_sdft_comes_nearer_to_its_teacher():
    """To the base with the demonstration in its prompt, which stays where it is."""
    settings = sdft.Settings(teacher="base", sample_tokens=1, ema_decay=0.9)
    engine = trainer(packed_model(), [sdft.compose(settings)], [1e-2])
    rows = [with_demonstrations(random_examples(6, 0))]
    steps = [make_batch(rows, END, CPU, seeds=[seed]) for seed in range(60)]
    found = train(engine, steps)[:, 0]
    assert found[-10:].mean() < 0.2 * found[:10].mean()


def test_combined_on_policy_is_the_parts_of_the_others():
    settings = combined_on_policy.Settings(shrink=0.01, ema_decay=0.7, divergence="jsd(0.5)", sample_tokens=3)
    recipe = combined_on_policy.compose(settings)
    alike = sdft.compose(sdft.Settings(**settings.model_dump(include=set(sdft.Settings.model_fields))))
    assert recipe.updates == stable_lora.compose(stable_lora.Settings(shrink=0.01)).updates
    assert recipe.loss == alike.loss
    assert recipe.average == alike.average == lora_ema.FactorEma(0.7, warm=False)
    assert (recipe.scored, alike.scored, alike.updates) == ("average", "student", ())
    for other in (stable_lora, sdft):
        for name, field in other.Settings.model_fields.items():
            assert combined_on_policy.Settings.model_fields[name].default == field.default, name
    default = sdft.compose(sdft.Settings(ema_decay=0.98)).loss
    assert (default.teacher, default.given, default.sampling) == ("ema", False, Sampling(1.0, 16))
    assert "{demonstration}" in default.demonstration


# -- divergences ------------------------------------------------------------------------------------------------------


def pair(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(30, 40, generator=generator).double(), torch.randn(30, 40, generator=generator).double()


def test_the_limits_of_jsd():
    """jsd / beta -> KL(p_T || p_S) for beta -> 0, jsd / (1 - beta) -> KL(p_S || p_T) for beta -> 1 (2306.13649)."""
    student, teacher = pair()
    small = 1e-6
    low = losses.divergence(f"jsd({small})")(student, teacher) / small
    high = losses.divergence(f"jsd({1 - small})")(student, teacher) / small
    assert torch.allclose(low, losses.kl_teacher_student(student, teacher), rtol=1e-4)
    assert torch.allclose(high, losses.kl_student_teacher(student, teacher), rtol=1e-4)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_is_bounded_and_turns_round(beta):
    student, teacher = pair(1)
    found = losses.jsd(student * 20, teacher * 20, beta)
    entropy = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert (found > 0).all()
    assert (found <= entropy + 1e-12).all()
    assert torch.allclose(found, losses.jsd(teacher * 20, student * 20, 1 - beta))
    assert torch.allclose(found, plain_divergence(f"jsd({beta})", student * 20, teacher * 20))


# -- bad input --------------------------------------------------------------------------------------------------------


def refused(method: str, **settings) -> InputError:
    study = Study(model="m", seeds=(0,), streams={"a": ("t",)}, methods={method: settings})
    with pytest.raises(InputError) as error:
        expand_arms(study, methods(), "s.yaml")
    assert error.value.where == f"s.yaml:methods.{method}.{next(iter(settings))}"
    return error.value


@pytest.mark.parametrize("method", ["self_distill", "sdft", "combined", "combined_on_policy"])
def test_an_unknown_teacher_or_divergence_gets_the_nearest(method):
    assert "'ema'" in str(refused(method, teacher="emma"))
    assert "did you mean 'kl_teacher_student'" in str(refused(method, divergence="kl_teachr_student"))
    assert "did you mean 'jsd(0.5)'" in str(refused(method, divergence="jsd"))


@pytest.mark.parametrize("beta", ["0", "1", "1.5", "-0.5", "e", "nan"])
def test_a_beta_outside_its_meaning_is_refused(beta):
    refused("sdft", divergence=f"jsd({beta})")


@pytest.mark.parametrize(
    "settings",
    [
        {"tokens": "both"}, {"sample_temperature": -1}, {"sample_tokens": 0}, {"temperature": 0}, {"skip_tokens": -1},
        {"teacher_prompt": "{prompt} and no answer"}, {"teacher_prompt": "{demonstration}"}, {"demonstration": "maybe"},
    ],
)  # fmt: skip
def test_settings_outside_their_meaning_are_refused(settings):
    refused("sdft", **settings)


def test_a_recipe_whose_loss_does_not_hang_together_is_refused():
    class Odd(Loss):
        given, sampling, teacher = False, None, None

        @classmethod
        def bind(cls, losses, device) -> BoundLoss:
            raise AssertionError("never bound")

    with pytest.raises(ValueError, match="given answers, on own answers"):
        Recipe(loss=Odd())
    Odd.sampling = Sampling()
    with pytest.raises(ValueError, match="needs a teacher"):
        Recipe(loss=Odd())


def test_a_teacher_s_prompt_is_filled_once():
    template = "{prompt} A: {demonstration}; {other} {prompt}"
    found = fill_teacher_prompt(template, "say {demonstration}", " {prompt}\n")
    assert found == "say {demonstration} A: {prompt}; {other} say {demonstration}"
