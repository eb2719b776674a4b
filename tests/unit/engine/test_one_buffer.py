"""On a GPU every graph leaves its gradient in one place: who adds gradients up, or hands one out, has a copy."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers import batches, packed_model, random_examples, trainer, with_demonstrations
from torch import Tensor

from baselines import lora, self_distill
from harness.engine import task_ends
from harness.engine.batches import make_batch
from harness.engine.rows import Rows
from harness.engine.step import _losses_and_gradient
from harness.engine.trunk import Trunk
from harness.method import Recipe
from harness.method.recipe import Method

SHORT = 60  #: tokens that cut six examples of two rows into several passes


@pytest.fixture
def one_buffer(monkeypatch):
    """Once it is called, gradients are where the graphs of a GPU leave them."""
    plain = Trunk.forward

    def shared(trunk: Trunk, *given):
        hidden, pull_back = plain(trunk, *given)

        def written(downstream: Tensor) -> Tensor:
            gradient = pull_back(downstream)
            if trunk._gradient is None:
                trunk._gradient = torch.empty_like(gradient)
            return trunk._gradient.copy_(gradient)

        return hidden, written

    return lambda: monkeypatch.setattr(Trunk, "forward", shared)


def recipe(method: Method, **settings: object) -> Recipe:
    return method.compose(method.settings(**settings).resolved(20))


def engine(kept: Recipe) -> Rows:
    rows = trainer(packed_model(), [kept] * 2, [1e-3] * 2)
    rows.bank.values += 0.05 * torch.randn(rows.bank.values.shape, generator=torch.Generator().manual_seed(0))
    return rows


@pytest.mark.parametrize(
    ("kept", "budget"),
    [(recipe(lora.METHOD), SHORT), (recipe(self_distill.METHOD, tokens="own", sample_tokens=4), 2**31)],
    ids=["cut", "given and own answers"],
)
def test_the_gradient_of_a_step_is_that_of_all_its_passes(kept, budget, one_buffer):
    rows = engine(kept)
    data = [with_demonstrations(random_examples(6, seed)) for seed in range(2)]
    (batch,) = batches(data, 6, 1, budget)
    assert budget > SHORT or len(batch.passes) > 1
    _, wanted, _ = _losses_and_gradient(rows, batch, 0.5)
    one_buffer()
    _, found, _ = _losses_and_gradient(rows, batch, 0.5)
    assert torch.equal(found, wanted)


def test_the_gradient_of_a_task_s_answers_is_a_rule_s_to_keep(one_buffer, monkeypatch):
    monkeypatch.setattr(task_ends, "make_batch", partial(make_batch, budget=SHORT))
    rows, asked = engine(Recipe()), [[random_examples(6, seed + add) for seed in range(2)] for add in (0, 2)]
    assert len(make_batch(asked[0], 0, rows.model.device, SHORT).passes) == 3
    assert rows.task is not None
    wanted = [rows.task.gradient(examples, [0, 1]) for examples in asked]
    one_buffer()
    found = [rows.task.gradient(examples, [0, 1]) for examples in asked]
    assert all(map(torch.equal, found, wanted))
