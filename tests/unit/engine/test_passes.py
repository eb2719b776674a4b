"""Forward and backward of a pass: a function of its tensors, whose gradient is that of its loss."""

from __future__ import annotations

import pytest
import torch
from helpers import CPU, batches, packed_model, random_examples, relative, train, trainer
from torch import Tensor

from harness.engine import passes
from harness.engine.adapters import AdapterBank, Layout
from harness.engine.batches import Pass, make_batch
from harness.engine.losses import loss_and_gradient
from harness.engine.passes import forward_backward
from harness.engine.trunk import Trunk
from harness.method import Recipe
from harness.method.losses import cross_entropy, kl_teacher_student

SCALING = torch.tensor([2.0, 0.5])


def given(student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
    return cross_entropy(student, target)


def taught(student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
    assert teacher is not None
    return kl_teacher_student(student, teacher) * (1 + row) + 0.1 * position


@pytest.fixture
def world():
    """A model, values away from the base, a pass of two rows, and a teacher's states."""
    model = packed_model()
    bank = AdapterBank(Layout(model.slots, 3), [0, 1], SCALING.tolist(), CPU)
    bank.values += 0.05 * torch.randn(bank.values.shape, generator=torch.Generator().manual_seed(0))
    (batch,) = make_batch([random_examples(4, 0), random_examples(4, 1)], 0, CPU).passes
    with torch.no_grad():
        teacher = Trunk(model).states(bank.layout, batch.student, None, SCALING)
    return model, bank, batch, teacher


@pytest.mark.parametrize("loss", [given, taught])
def test_a_pass_has_the_gradient_of_its_loss(world, loss):
    model, bank, batch, teacher = world
    losses, gradient = forward_backward(Trunk(model), bank.layout, loss, batch, bank.values, SCALING, teacher)

    values = bank.values.clone().requires_grad_()
    with model.adapted(bank.layout, values, SCALING):
        student = model.logits(model.hidden(batch.student.ids).flatten(0, 1)[batch.student.source])
    each = loss(student, model.logits(teacher), batch.target, batch.row, batch.position) * batch.weight
    wanted = torch.stack([each[batch.row == row].sum() for row in range(2)])
    wanted.sum().backward()
    assert torch.allclose(losses, wanted, rtol=1e-5)
    assert relative(gradient, values.grad) < 1e-5


def tensors(batch: Pass) -> list[torch.Tensor]:
    sequences = (part for each in (batch.student, batch.teacher) for part in (each.ids, each.source))
    return [*sequences, batch.target, batch.row, batch.position, batch.weight]


def test_a_pass_leaves_nothing_behind(world):
    model, bank, batch, _ = world
    before = [bank.values.clone(), *(tensor.clone() for tensor in tensors(batch))]
    first, second = (forward_backward(Trunk(model), bank.layout, given, batch, bank.values, SCALING) for _ in range(2))
    after = [bank.values, *tensors(batch)]
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, before, after))
    assert bank.values.grad is None
    assert not bank.values.requires_grad


def test_steps_and_rules_have_a_kernel_s_cross_entropy(monkeypatch):
    seen = []

    def by_kernel(kernels, hidden, head, target, weight):
        seen.append(len(target))
        return loss_and_gradient(hidden, head.logits, lambda logits, part: cross_entropy(logits, target[part]), weight)

    monkeypatch.setattr(passes, "kernels_for", lambda device: "the kernels")
    monkeypatch.setattr(passes, "cross_entropy_and_gradient", by_kernel)
    examples = [random_examples(4, 0)]
    answers = sum(len(example.answer) for example in examples[0])
    rows = trainer(packed_model(), [Recipe()], [1e-3])
    train(rows, batches(examples, 4, 1))
    assert rows.task is not None
    rows.task.gradient(examples, [0])
    assert seen == [answers, answers]
