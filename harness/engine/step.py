"""One optimizer step of K rows: losses, gradient, penalties, update, averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.engine.batches import Batch, Pass, make_batch
from harness.engine.optimizer import clip, update
from harness.engine.passes import PassLoss, cross_entropy, forward_backward
from harness.engine.rollouts import own_answers
from harness.engine.rows import Rows


@dataclass(frozen=True)
class Spent:
    """Real tokens of one step, of each row of the pack, by what they went through the model for."""

    student: tuple[int, ...]  #: with gradient
    teacher: tuple[int, ...]
    prompt: tuple[int, ...]  #: read in order to sample
    sampled: tuple[int, ...]


def take_step(rows: Rows, batch: Batch, factor: float, progress: float) -> tuple[Tensor, Spent]:
    """Losses [K] of this step, after updating every row; and the tokens that it took.

    ``factor`` scales the rates; ``progress`` in [0, 1) is the share of the current task's steps that are done.
    Nothing is read back to the host but the students' own answers, token by token, where a loss is on those.
    """
    assert rows.task is not None, "adapters start where a task begins: call begin_task first"
    rows.factor.fill_(factor)
    losses, gradient, spent = _losses_and_gradient(rows, batch, progress)
    with torch.no_grad():
        rows.alive &= losses.isfinite() & rows.rates.isfinite()
        for rule in rows.updates.values():
            rule.penalise(rows.bank, gradient)
        held = rows.release(gradient)
        for rule in rows.updates.values():
            rule.before_step(rows.bank, rows.alive)
        rates = rows.rates[:, None] * rows.optimizer.ratios * rows.factor
        clipped = clip(gradient, rates, rows.alive, rows.settings.clip)
        update(rows.optimizer, rows.bank, gradient, clipped)
        rows.hold(held)
        rows.alive &= clipped.norm.isfinite()
        for average in rows.averages.values():
            average.after_step(rows.bank)
    return losses, spent


@dataclass(frozen=True)
class _Passes:
    """Passes with one kind of loss."""

    passes: Sequence[Pass]
    loss: PassLoss
    taught: bool


def _losses_and_gradient(rows: Rows, batch: Batch, progress: float) -> tuple[Tensor, Tensor, Spent]:
    """Losses [K], their gradient [K, P] at the present values, and the tokens that both took."""
    taught = rows.loss.needs_teacher(progress)
    groups, spent = _passes(rows, batch, taught)
    trunk, layout, values, scaling = rows.trunk, rows.bank.layout, rows.bank.values, rows.bank.scaling
    teachers = rows.teachers() if taught else None
    losses, gradient = torch.zeros_like(rows.rates), None
    several = sum(len(group.passes) for group in groups) > 1
    for group in groups:
        for each in group.passes:
            states = None
            if group.taught:  # behind the teachers' own prompts
                states = trunk.states(layout, each.teacher, teachers, scaling)
            of_losses, of_gradient = forward_backward(trunk, layout, group.loss, each, values, scaling, states)
            losses += of_losses
            if gradient is None:
                gradient = of_gradient.clone() if several else of_gradient  # the next pass writes where this one did
            else:
                gradient.add_(of_gradient)
    assert gradient is not None, "a loss that leaves out the given answers needs its teacher in every step"
    return losses, gradient, spent


def _passes(rows: Rows, batch: Batch, taught: bool) -> tuple[list[_Passes], Spent]:
    """What a step's loss is on: the given answers, the students' own, or both; and the tokens that this takes."""
    kind, none = rows.kind_of_loss, (0,) * len(rows.specs)
    samples = kind.sampling is not None
    groups, spent = [], Spent(none, none, none, none)
    if kind.given:
        by_teacher = taught and not samples
        loss = cross_entropy if rows.loss.is_cross_entropy(taught=by_teacher) else rows.loss.tokens
        groups.append(_Passes(batch.passes, loss, by_teacher))
        spent = Spent(batch.tokens, batch.teacher_tokens if by_teacher else none, none, none)
    if taught and samples:
        answered, prompt, sampled = _rollout(rows, batch)
        groups.append(_Passes(answered.passes, _on_own_answers(rows), taught))
        student = tuple(map(sum, zip(spent.student, answered.tokens, strict=True)))
        spent = Spent(student, answered.teacher_tokens, prompt, sampled)
    return groups, spent


def _rollout(rows: Rows, batch: Batch) -> tuple[Batch, tuple[int, ...], tuple[int, ...]]:
    """The batch with the students' own answers, and the tokens read and drawn for them."""
    sampling, bank = rows.kind_of_loss.sampling, rows.bank
    assert sampling is not None
    with rows.model.adapted(bank.layout, bank.values, bank.scaling):
        rollout = own_answers(rows.model, batch, sampling)
    model = rows.model
    answered = make_batch(rollout.rows, batch.end, model.device, batch.budget, by_answer=True, join=model.joins)
    return answered, rollout.prompt_tokens, rollout.sampled_tokens


def _on_own_answers(rows: Rows) -> PassLoss:
    def loss(student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
        assert teacher is not None
        return rows.loss.own_tokens(student, teacher, row, position)

    return loss
