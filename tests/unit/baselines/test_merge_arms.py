"""Arms that only score otherwise: a share of the trained change, and merges of an adapter a task."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import ALPHA, RANK, batches, packed_model, random_examples, relative, train, trainer
from torch import Tensor

from baselines import lora, merge_mean, merge_ties, single_task, wise_ft
from baselines.merge_mean import MergeMean
from harness.engine.rows import Rows, ScoredWeights
from harness.errors import InputError
from harness.method import MethodSettings, Recipe
from harness.method.registry import methods
from harness.study.arms import expand_arms
from harness.study.config import Study
from harness.study.plan import Inputs, build_plan

LORA = lora.compose(MethodSettings())
SINGLE = single_task.compose(MethodSettings())
TASKS = 3


def deltas(scored: ScoredWeights) -> list[Tensor]:
    changes = scored.layout.changes(scored.values[None], torch.tensor([float(scored.scaling)]), torch.float64)
    return [change.delta(weight)[0] for change, (_, weight) in zip(changes, packed_model().weights(), strict=True)]


def through(recipes: list[Recipe], *, tasks: int = TASKS) -> tuple[Rows, list[list[Tensor]]]:
    """One row that is scored by all of these, and what each task alone has left of the student."""
    engine = trainer(packed_model(), recipes[:1], [1e-2], also=[tuple(r.average for r in recipes if r.average)])
    student, left = replace(recipes[0], scored="student"), []
    for task in range(tasks):
        if task:
            engine.begin_task(task, [random_examples(40, 10 * task)])
        train(engine, batches([random_examples(16, 10 * task)], 4, 4))
        engine.end_task()
        left.append(deltas(engine.scored(0, student)))
    return engine, left


# -- a share ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_share_of_the_change_is_scored_from_one_training(share):
    recipe = wise_ft.compose(wise_ft.Settings(share=share))
    assert recipe.under("continue").training_key == LORA.under("continue").training_key
    engine = trainer(packed_model(), [LORA], [1e-2], also=[(recipe.average,)])
    train(engine, batches([random_examples(16, 3)], 4, 4))
    trained, found = deltas(engine.scored(0, LORA)), deltas(engine.scored(0, recipe))
    for ours, whole in zip(found, trained, strict=True):
        assert whole.abs().max() > 0
        assert relative(ours, share * whole) <= 1e-6
    if share == 1:
        assert torch.equal(engine.scored(0, recipe).values, engine.scored(0, LORA).values)
    assert any(delta.any() for delta in found) == (share > 0), "share 0 is the base, exactly"


def test_under_reinit_a_share_is_what_the_next_task_stands_on():
    recipe = wise_ft.compose(wise_ft.Settings(share=0.5)).under("reinit")
    assert recipe.training_key != LORA.under("reinit").training_key
    engine = trainer(packed_model(), [recipe], [1e-2])
    train(engine, batches([random_examples(16, 3)], 4, 4))
    engine.end_task()
    scored = deltas(engine.scored(0, recipe))
    engine.begin_task(1, [random_examples(40, 4)])
    for now, before in zip(deltas(engine.scored(0, recipe)), scored, strict=True):
        assert relative(now, before) <= 1e-6


# -- merges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "shares"),
    [("mean", [1 / 3] * 3), (0.3, [0.3] * 3), ("0.3", [0.3] * 3), ("0.5 0.3 0.2", [0.5, 0.3, 0.2])],
)
def test_a_merge_is_the_weighted_sum_of_each_tasks_change(weights, shares):
    recipe = merge_mean.compose(merge_mean.Settings(weights=weights))
    engine, left = through([recipe])
    scored = engine.scored(0, recipe)
    assert scored.layout.rank == TASKS * RANK
    for slot, found in enumerate(deltas(scored)):
        wanted = sum(share * left[task][slot] for task, share in enumerate(shares))
        assert relative(found, wanted) <= 1e-6
    first, last = left[0][0], left[-1][0]
    assert relative(first, last) > 0.1, "the tasks have left different changes"


def test_while_a_task_trains_its_adapter_counts_as_the_last():
    recipe = merge_mean.compose(merge_mean.Settings())
    engine, left = through([recipe], tasks=2)
    engine.begin_task(2, [random_examples(40, 20)])
    begun = deltas(engine.scored(0, recipe))
    for slot, found in enumerate(begun):
        assert relative(found, (left[0][slot] + left[1][slot]) / 3) <= 1e-6, "the third is still nothing"
    train(engine, batches([random_examples(16, 20)], 4, 4))
    student = deltas(engine.scored(0, replace(recipe, scored="student")))
    for slot, found in enumerate(deltas(engine.scored(0, recipe))):
        assert relative(found, (left[0][slot] + left[1][slot] + student[slot]) / 3) <= 1e-6


def test_weights_of_the_tasks_so_far_are_over_their_sum():
    merge = MergeMean((0.5, 0.3, 0.2))
    for tasks, wanted in ((1, [1.0]), (2, [0.625, 0.375]), (3, [0.5, 0.3, 0.2])):
        assert merge.of(tasks) == pytest.approx(wanted)


def test_ties_by_hand():
    """Two of four entries are kept; where signs differ the larger sum wins; the mean is over those that agree."""
    changes = torch.tensor([[[4.0, -3.0], [1.0, 0.5]], [[2.0, 5.0], [-0.1, 1.0]], [[-9.0, 0.1], [8.0, 7.0]]])
    # kept: [4, -3, 0, 0], [2, 5, 0, 0], [-9, 0, 8, 0]; sums -3, 2, 8, 0
    assert merge_ties.ties(changes, 0.5).tolist() == [[-9.0, 5.0], [8.0, 0.0]]
    # all kept: sums -3, 2.1, 8.9, 8.5
    whole = merge_ties.ties(changes, 1.0)
    assert torch.allclose(whole, torch.tensor([[-9.0, 2.55], [4.5, 8.5 / 3]]))


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (3, 9)])
def test_the_nearest_matrix_of_a_rank(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    a, b = merge_ties.largest(matrix, 4)
    assert (tuple(a.shape), tuple(b.shape)) == ((4, shape[1]), (shape[0], 4))
    u, d, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    wanted = (u[:, :4] * d[:4]) @ v[:4]
    assert relative((b @ a).double(), wanted) <= 1e-6


@pytest.mark.parametrize(("keep_rank", "rank"), [(0, TASKS * RANK), (RANK, RANK), (5, 5)])
def test_ties_is_scored_at_the_rank_that_is_asked_for(keep_rank, rank):
    """0: that of all tasks together."""
    recipe = merge_ties.compose(merge_ties.Settings(density=0.5, weight=0.7, keep_rank=keep_rank))
    engine, left = through([recipe])
    scored, whole, lost = engine.scored(0, recipe), 0.0, 0.0
    assert scored.layout.rank == rank
    for slot, found in enumerate(deltas(scored)):
        merged = 0.7 * merge_ties.ties(torch.stack([each[slot] for each in left]), 0.5)
        u, d, v = torch.linalg.svd(merged, full_matrices=False)
        assert relative(found, (u[:, :rank] * d[:rank]) @ v[:rank]) <= 1e-5
        whole, lost = whole + float(d.square().sum()), lost + float(d[rank:].square().sum())
    assert lost / whole > 0.001
    assert engine.lost_energy(0, recipe) == pytest.approx(lost / whole, rel=1e-3)


def test_merges_train_once_with_a_fresh_adapter_a_task():
    arms = [merge_mean.compose(merge_mean.Settings()), merge_ties.compose(merge_ties.Settings())]
    study = Study(
        model="m", seeds=(0,), streams={"a": ("s", "t", "u")},
        methods={"single_task": {}, "merge_mean": {"weights": ["mean", 0.3]}, "merge_ties": {}, "wise_ft": {},
                 "lora": {}},
    )  # fmt: skip
    inputs = Inputs("m", dict.fromkeys("stu", "x"), dict.fromkeys(methods(), "x"))
    [alone, alike] = sorted(build_plan(study, methods(), inputs, 8, "s.yaml").packs, key=lambda pack: len(pack.trials))
    assert [trial.spec.arm for trial in alone.rows[0].trials] == ["wise_ft", "lora"]
    assert len(alike.rows) == 1
    assert len(alike.trials) == 4
    assert {arm.training_key for arm in arms} == {SINGLE.training_key}
    facts = {trial.spec.method: trial.facts for trial in alike.trials}
    sequential = {method: each.sequential for method, each in facts.items()}
    assert sequential == {"single_task": False, "merge_mean": True, "merge_ties": True}, "scored are all tasks so far"


def test_one_row_is_merged_in_every_way():
    mean, ties = merge_mean.compose(merge_mean.Settings()), merge_ties.compose(merge_ties.Settings(density=1.0))
    engine, left = through([mean, ties])
    alone, _ = through([ties])
    assert torch.equal(engine.scored(0, ties).values, alone.scored(0, ties).values)
    assert deltas(engine.scored(0, SINGLE))[0].equal(left[-1][0]), "the student is the last task's alone"
    assert float(engine.bank.scaling[0]) == ALPHA / RANK


@pytest.mark.parametrize(
    ("weights", "says"),
    [("0.5 0.3 0.1", "add up to 0.9"), ("0.5 0.5", "2 weights for a stream of 3"), ("medium", "are no weights"),
     ("", "are no weights"), ("0.9 nan", "are no weights"), ("1.5 -0.5", "must be shares"), ("0 0.5 0.5", "above 0"),
     (0, "0 is not above 0"), (-0.5, "-0.5 is not above 0"), ("-1", "-1 is not above 0"), ("inf", "are no weights"),
     (True, "true is no weight"), (False, "false is no weight")],
)  # fmt: skip
def test_weights_that_do_not_fit_name_file_and_key(weights, says):
    study = Study(model="m", seeds=(0,), streams={"a": ("s", "t", "u")}, methods={"merge_mean": {"weights": weights}})
    with pytest.raises(InputError, match=says) as error:
        expand_arms(study, methods(), "s.yaml")
    assert error.value.where == "s.yaml:methods.merge_mean.weights"
    assert error.value.remedy


def test_weights_must_fit_every_stream():
    study = Study(
        model="m", seeds=(0,), streams={"a": ("s", "t"), "b": ("s", "t", "u")},
        methods={"merge_mean": {"weights": "0.5 0.5"}},
    )  # fmt: skip
    with pytest.raises(InputError, match="2 weights for a stream of 3"):
        expand_arms(study, methods(), "s.yaml")


def test_a_merge_is_made_once_between_two_steps(monkeypatch):
    """Scores, intruders and files all ask for it; what has trained since is in the next."""
    recipe, made = merge_ties.compose(merge_ties.Settings()), []
    largest = merge_ties.largest
    monkeypatch.setattr(merge_ties, "largest", lambda *given: made.append(1) or largest(*given))
    engine, _ = through([recipe], tasks=2)
    made.clear()
    first = engine.scored(0, recipe).values.clone()
    engine.lost_energy(0, recipe)
    engine.scored(0, recipe)
    assert len(made) == len(engine.model.slots)
    engine.begin_task(2, [random_examples(40, 20)])
    train(engine, batches([random_examples(16, 20)], 4, 4))
    assert not torch.equal(engine.scored(0, recipe).values, first)
    assert len(made) == 2 * len(engine.model.slots)
