"""Arms that work between tasks: EWC, replay, the union of tasks; against toys worked out by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from helpers import batches, packed_model, random_examples, train, trainer

from baselines import lora, lora_ewc, lora_replay, multitask
from baselines.lora_ewc import Ewc
from baselines.lora_replay import Replay
from baselines.multitask import Union
from harness.engine.adapters.bank import AdapterBank
from harness.engine.adapters.layout import Layout, Slot
from harness.engine.batches import Example
from harness.method import CurrentTask, MethodSettings, Recipe, TaskExamples
from harness.method.registry import methods
from harness.study.arms import remarks
from harness.study.load import build_study

LORA = lora.compose(MethodSettings())
SEEDS = (11, 22, 33)


def scalar_bank(*rows: tuple[float, float]) -> AdapterBank:
    """One 1 x 1 matrix at rank 1: a row is (A, B)."""
    bank = AdapterBank(
        Layout((Slot("layers.0.q_proj", 1, 1),), 1), range(len(rows)), [1.0] * len(rows), torch.device("cpu")
    )
    bank.values.copy_(torch.tensor(rows))
    return bank


def ended(gradients: list[list[list[float]]]) -> CurrentTask:
    """A finished task whose i-th example gives row k the gradient ``gradients[i][k]``."""
    examples = [[Example(np.array([i, 0]), 1) for i in range(len(gradients))] for _ in gradients[0]]
    return CurrentTask(0, examples, lambda rows, asking: torch.tensor(gradients[int(rows[0][0].ids[0])]))


# -- EWC --------------------------------------------------------------------------------------------------------------


def test_ewc_by_hand():
    bank = scalar_bank((1.0, 2.0), (1.0, 2.0))
    bound = Ewc.bind([Ewc(10.0, 2), None], bank)
    bound.end_task(bank, ended([[[1.0, 0.0], [9.0, 9.0]], [[3.0, 0.0], [9.0, 9.0]], [[99.0, 99.0]] * 2]))
    assert bound.fisher.tolist() == [[5.0, 0.0], [0.0, 0.0]], "(1 + 9) / 2, of the first two examples"
    bank.values.copy_(torch.tensor([[1.5, 7.0], [1.5, 7.0]]))
    gradient = torch.ones(2, 2)
    bound.penalise(bank, gradient)
    assert gradient.tolist() == [[1.0 + 10 * 5 * 0.5, 1.0], [1.0, 1.0]]
    # A second task: F = 15 at 3 beside F = 5 at 1 is F = 20 at 2.5.
    bank.values.copy_(torch.tensor([[3.0, 0.0], [3.0, 0.0]]))
    bound.end_task(bank, ended([[[15**0.5, 2.0], [0.0, 0.0]]]))
    assert bound.fisher[0].tolist() == pytest.approx([20.0, 4.0])
    bank.values.copy_(torch.tensor([[4.0, 1.0], [4.0, 1.0]]))
    gradient = torch.zeros(2, 2)
    bound.penalise(bank, gradient)
    assert gradient[0].tolist() == pytest.approx([10 * (5 * (4 - 1) + 15 * (4 - 3)), 10 * 4 * 1])
    assert gradient[1].tolist() == [0.0, 0.0], "the row without the rule"


def test_fisher_is_the_mean_square_of_each_examples_gradient():
    recipe = lora_ewc.compose(lora_ewc.Settings(fisher_examples=3))
    examples = [random_examples(12, seed) for seed in range(2)]
    engine = trainer(packed_model(), [recipe] * 2, [1e-2, 1e-3])
    engine.begin_task(0, examples)
    train(engine, batches(examples, 4, 3))
    engine.end_task()
    bound, model = engine.updates["Ewc"], engine.model
    for row in range(2):
        squares = []
        for example in examples[row][:3]:
            values = engine.bank.values[row : row + 1].clone().requires_grad_()
            ids = torch.from_numpy(example.ids)
            with model.adapted(engine.bank.layout, values, engine.bank.scaling[row : row + 1]):
                logits = model.logits(model.hidden(ids[None])[0])
            spoken = logits[example.answer_start - 1 : -1].log_softmax(-1)
            (-spoken[torch.arange(len(spoken)), ids[example.answer_start :]].sum()).backward()
            squares.append(values.grad[0].square())
        assert torch.allclose(bound.fisher[row], torch.stack(squares).mean(0), rtol=1e-3, atol=1e-7)
    assert torch.equal(bound.anchor, engine.bank.values.where(bound.fisher > 0, torch.zeros(())))


def test_what_the_fisher_pass_reads_counts_for_who_asked():
    few, more = (lora_ewc.compose(lora_ewc.Settings(fisher_examples=n)) for n in (3, 5))
    examples = [random_examples(12, seed) for seed in range(3)]
    engine = trainer(packed_model(), [few, LORA, more], [1e-2] * 3, examples=examples)
    assert engine.take_read_tokens() == [0, 0, 0]
    engine.end_task()
    read = [sum(len(example.ids) for example in own[:n]) for own, n in zip(examples, (3, 0, 5), strict=True)]
    assert engine.take_read_tokens() == read


def test_ewc_is_plain_lora_on_its_first_task_and_then_holds():
    steps = batches([random_examples(60, 1)] * 2, 4, 12)
    rows = [lora_ewc.compose(lora_ewc.Settings(ewc_strength=1e4)), LORA]
    engine, plain = (trainer(packed_model(), pack, [1e-2] * 2, [0, 0]) for pack in (rows, [LORA] * 2))
    for each in (engine, plain):
        train(each, steps[:6])
    # Row for row: the two rows of one pack lie differently in memory, which can change a sum's last bit.
    assert torch.equal(engine.bank.values, plain.bank.values)
    engine.end_task()
    start = engine.bank.values[0].clone()
    engine.begin_task(1, [random_examples(4, 2)] * 2)
    train(engine, steps[6:])
    fisher = engine.updates["Ewc"].fisher[0]
    held, free = ((fisher * (values - start).square()).sum() for values in engine.bank.values)
    assert held < 0.5 * free


# -- examples ---------------------------------------------------------------------------------------------------------


def drawn(task: int) -> list[Example]:
    """Example i of a task has the ids [task, i]."""
    return [Example(np.array([task, i]), 1) for i in range(40)]


def seen(rule: TaskExamples, stage: int, seeds=SEEDS) -> list[tuple[int, int]]:
    return [(int(e.ids[0]), int(e.ids[1])) for e in rule.choose(stage, drawn, seeds)]


def test_own_task_is_what_was_drawn():
    assert seen(TaskExamples(), 1) == [(1, i) for i in range(40)]


def test_replay_replaces_every_twentieth_example():
    assert seen(Replay(20), 0) == seen(TaskExamples(), 0), "there is nothing to replay on the first task"
    for stage in (1, 2):
        found = seen(Replay(20), stage)
        assert len(found) == 40
        assert [i for i, (task, _) in enumerate(found) if task != stage] == [19, 39]
        assert all(found[i] == (stage, i) for i in range(40) if i not in (19, 39))


def test_replay_draws_from_all_earlier_tasks_by_the_trials_seed():
    many = [seen(Replay(2), 2, (1, 2, seed)) for seed in range(30)]
    assert many[0] == seen(Replay(2), 2, (7, 8, 0)), "a function of its own seed alone"
    assert len({tuple(found) for found in many}) == 30
    tasks = Counter(task for found in many for task, _ in found)
    assert tasks[2] == 20 * 30
    assert 200 < tasks[0] < 400
    assert tasks[0] + tasks[1] == 20 * 30


def test_the_union_is_every_task_s_examples_once():
    parts = [seen(Union(), stage) for stage in range(3)]
    assert all(len(part) == 40 for part in parts)
    assert sorted(entry for part in parts for entry in part) == [(task, i) for task in range(3) for i in range(40)]
    assert all(len({task for task, _ in part}) == 3 for part in parts)
    assert seen(Union(), 0, (1, 2, 3)) != parts[0]


def test_other_examples_are_another_training_in_the_same_pack():
    arms = [
        LORA,
        multitask.compose(MethodSettings()),
        lora_replay.compose(lora_replay.Settings()),
        Recipe(examples=Replay(3)),
    ]
    arms = [arm.under("continue") for arm in arms]
    assert len({arm.pack_key for arm in arms}) == 1
    assert len({arm.training_key for arm in arms}) == 4


# -- one task ---------------------------------------------------------------------------------------------------------


def test_on_a_stream_of_one_task_it_says_that_it_is_plain_lora():
    data = {"name": "s", "model": "m", "seeds": [0], "methods": {"lora": {}, "lora_ewc": {}, "lora_replay@x": {}}}
    study = build_study(data | {"streams": {"one": ["a"], "two": ["a", "b"]}}, where="s.yaml")
    ewc, replay = remarks(study, methods())
    assert ewc.startswith("lora_ewc is plain LoRA on one:")
    assert replay.startswith("lora_replay is plain LoRA on one:")
    assert remarks(build_study(data | {"streams": {"two": ["a", "b"]}}, where="s.yaml"), methods()) == ()
