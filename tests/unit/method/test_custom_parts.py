"""What any method may ask for: an optimizer, vectors beside the factors, what lies below, examples at a start."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from custom_methods import CUSTOM, Lengths, Lion, Minor, Scaled, mean_length
from helpers import (
    ALPHA,
    CPU,
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

from baselines.self_distill import SelfDistillation
from harness import checks
from harness.engine.adapters.files import save_adapters
from harness.engine.adapters.layout import Layout
from harness.method import AdamW, CrossEntropy, LowRank, Recipe
from harness.method.bound import BoundCrossEntropy, BoundLoss
from harness.method.registry import methods
from harness.study.config import AdapterSettings, Study
from harness.study.plan import Inputs, build_plan
from harness.study.seeds import derive

SIZE = 3


def data(rows: int):
    return [random_examples(60, seed) for seed in range(rows)]


@pytest.mark.parametrize("name", list(CUSTOM))
def test_custom_parts_keep_the_contract(name):
    assert list(checks.check(name, {**methods(), **CUSTOM})) == list(checks.RULES)


# -- a loss -----------------------------------------------------------------------------------------------------------


class BoundHalf(BoundCrossEntropy):
    def tokens(self, student, teacher, target, row, position):
        return super().tokens(student, teacher, target, row, position) / 2


class Half(CrossEntropy):
    @classmethod
    def bind(cls, losses, device):
        return BoundHalf()


def test_a_loss_made_of_the_cross_entropy_is_what_trains():
    losses = []
    for loss in (CrossEntropy(), Half()):
        engine = trainer(packed_model(), [Recipe(loss=loss)] * 2, [1e-3] * 2)
        losses.append(train(engine, batches(data(2), SIZE, 1)))
    assert torch.equal(losses[1], losses[0] / 2)


def test_losses_of_one_name_are_not_bound_as_one():
    other = type("Half", (CrossEntropy,), {})
    assert Recipe(loss=Half()).pack_key == Recipe(loss=Half()).pack_key != Recipe(loss=other()).pack_key


class Halves:
    tokens = BoundHalf.tokens


@pytest.mark.parametrize("kind", [BoundCrossEntropy, type(SelfDistillation.bind([SelfDistillation(0.5)], CPU))])
def test_what_a_loss_says_of_its_tokens_is_not_said_of_others(kind):
    class Same(kind): ...

    class Other(kind):
        tokens = BoundHalf.tokens

    class OfOther(Other): ...

    class Mixed(Halves, kind): ...

    class SaysItAnew(Other):
        is_cross_entropy = kind.is_cross_entropy

    assert Same.is_cross_entropy is SaysItAnew.is_cross_entropy is kind.is_cross_entropy
    for other in (Other, OfOther, Mixed):
        assert other.is_cross_entropy is BoundLoss.is_cross_entropy


# -- an optimizer -----------------------------------------------------------------------------------------------------


def lion_by_hand(run: PeftRun, examples, rate: float, part: Lion, steps: int) -> list[float]:
    """The paper's algorithm, one factor at a time, on PEFT's gradients."""
    momenta = [torch.zeros_like(parameter) for parameter in run.trained]
    losses = []
    for step in range(steps):
        losses.append(run.backward(examples[step * SIZE : (step + 1) * SIZE]))
        with torch.no_grad():
            for parameter, momentum in zip(run.trained, momenta, strict=True):
                gradient = parameter.grad
                direction = torch.sign(part.beta1 * momentum + (1 - part.beta1) * gradient)
                parameter -= rate * warmup(step) * (direction + 0.1 * parameter)
                momentum.copy_(part.beta2 * momentum + (1 - part.beta2) * gradient)
    return losses


def test_lion_is_a_loop_by_hand_in_every_row():
    parts, rates, steps, examples = (Lion(), Lion(0.5, 0.9)), (1e-3, 3e-4), 8, data(2)
    rows = trainer(packed_model(), [Recipe(optimizer=part) for part in parts], rates, weight_decay=0.1)
    start = rows.bank.values.clone()
    losses = train(rows, batches(examples, SIZE, steps))
    for row, (part, rate) in enumerate(zip(parts, rates, strict=True)):
        run = PeftRun(tiny_model(), factors(rows, start, row), rate)
        wanted = lion_by_hand(run, examples[row], rate, part, steps)
        assert losses[:, row].tolist() == pytest.approx(wanted, rel=1e-4)
        for module, pair in factors(rows, rows.bank.values, row).items():
            for ours, theirs in zip(pair, run.factors[module], strict=True):
                # A sign of what is 0 up to rounding may differ; a share of such entries is not a share of all.
                assert relative(ours, theirs.detach()) < 0.02, (row, module)


def test_what_an_optimizer_keeps_is_in_the_checkpoint():
    rows = trainer(packed_model(), [Recipe(optimizer=Lion())], [1e-3])
    train(rows, batches(data(1), SIZE, 2))
    assert torch.equal(rows.state()["optimizer.mean"], rows.optimizer.mean)
    assert rows.optimizer.mean.any()


def test_a_pack_has_one_kind_of_optimizer():
    """Its numbers may differ by row, but for those that a kind keeps for the pack as a whole."""
    given = {"lora": {}, "lora_plus": {}, "lion": {}, "lion@slow": {"beta1": 0.8}}
    study = Study(model="m", seeds=(0,), streams={"a": ("t",)}, methods=given)
    registry = {**methods(), **CUSTOM}
    packs = build_plan(study, registry, Inputs("m", {"t": "t"}, dict.fromkeys(registry, "")), 8, "s.yaml").packs
    arms = [[trial.spec.arm for trial in pack.trials] for pack in packs]
    assert arms == [["lora", "lora_plus"], ["lion", "lion@slow"]]
    assert Recipe(optimizer=AdamW(betas=(0.8, 0.9))).pack_key != Recipe().pack_key


def test_another_optimizer_is_another_training():
    assert Recipe(optimizer=Lion()).training_key != Recipe().training_key
    assert Recipe(optimizer=AdamW(b_ratio=2.0)).training_key != Recipe().training_key
    assert Recipe(optimizer=AdamW()).training_key == Recipe().training_key


# -- vectors, and what lies below ------------------------------------------------------------------------------------


def test_a_scale_multiplies_the_rows_of_the_whole():
    model = packed_model()
    rows = trainer(model, [Recipe(adapter=Scaled())], [1e-2])
    train(rows, batches(data(1), SIZE, 6))
    layout, values = rows.bank.layout, rows.bank.values
    scales = layout.vector("scale", values)
    assert all((scale != 1).any() for scale in scales)
    changes = layout.changes(values, rows.bank.scaling, torch.float64)
    parts = zip(changes, model.weights(), layout.split(values.double()), scales, strict=True)
    for change, (_, weight), (a, b), scale in parts:
        wanted = scale.double()[0, :, None] * (weight.double() + ALPHA / RANK * b[0] @ a[0])
        assert torch.allclose(change.delta(weight)[0] + weight.double(), wanted, atol=1e-6)


def test_a_scale_has_no_place_in_peft_s_format(tmp_path):
    layout = Layout(packed_model().slots, 2, ("scale",))
    save_adapters(tmp_path / "a.safetensors", layout, [("f", torch.zeros(layout.size))], "m", AdapterSettings(rank=2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("adapter", [Scaled(), Minor(), Lengths()])
def test_a_fresh_adapter_starts_where_the_last_ended(adapter):
    model, recipe, ids = packed_model(), Recipe(adapter=adapter).under("reinit"), torch.arange(3, 23).view(2, 10)
    rows = trainer(model, [recipe], [1e-2])

    def seen() -> torch.Tensor:
        scored = rows.scored(0, recipe)
        with model.adapted(scored.layout, scored.values[None], torch.tensor([scored.scaling])):
            return model.hidden(ids)

    for task in (1, 2):
        train(rows, batches(data(1), SIZE, 4))
        rows.end_task()
        learnt = seen()
        rows.begin_task(task, data(1))
        assert relative(seen(), learnt) < 1e-5
    assert relative(seen(), model.hidden(ids)) > 1e-2


def test_what_lies_below_is_declared():
    @dataclass(frozen=True)
    class Silent(Minor):
        puts_below = False

    with pytest.raises(TypeError, match=r"Silent\.start returns \(values, what lies below them\) where puts_below"):
        trainer(packed_model(), [Recipe(adapter=Silent())], [1e-3])


# -- examples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", ["reinit", "fresh", "continue"])
def test_a_start_sees_the_examples_of_its_task(between):
    recipe = Recipe(adapter=Lengths(), between=between)
    tasks = [[random_examples(9, 10 * task + row, longest=6 + 3 * task) for row in range(2)] for task in range(2)]
    rows = trainer(packed_model(), [recipe] * 2, [1e-3] * 2, examples=tasks[0])

    def expected(row: int, task: int) -> torch.Tensor:
        seed = derive(row, "task", task) if task else row
        return rows.bank.layout.initial(seed) * mean_length(tasks[task][row])

    for row in range(2):
        assert torch.equal(rows.bank.values[row], expected(row, 0))
    rows.end_task()
    rows.begin_task(1, tasks[1])
    for row in range(2):
        assert torch.equal(rows.bank.values[row], expected(row, int(between != "continue")))


def test_no_step_before_the_first_task():
    rows = trainer(packed_model(), [Recipe(adapter=LowRank())], [1e-3])
    rows.task = None
    with pytest.raises(AssertionError, match="begin_task"):
        train(rows, batches(data(1), SIZE, 1))
