"""The rules: what a method says of itself, and what it does over two tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.checks.ends import undeclared
from harness.checks.lag import LAG_STEPS, MOST_GROWTH, lags
from harness.checks.reads import HostReads, watched
from harness.checks.toys import (
    changes,
    learnable,
    make_engine,
    make_steps,
    random_data,
    random_examples,
    tiny_model,
    train,
    train_two_tasks,
)
from harness.engine.batches import Example
from harness.engine.model.packed import PackedModel
from harness.engine.rows import Rows
from harness.engine.step import take_step
from harness.method import Method, Recipe
from harness.method.losses import cross_entropy
from harness.study.overrides import TRAINING_KEYS

STEPS_PER_TASK = 64
LONGEST_FILE = 200  # lines: a method is read from top to bottom
#: Rates at one of which the toy is learnt: LoRA's, and that of methods with larger steps.
TOY_RATES = (1e-2, 2e-3)

#: What the weights of a trial alone may be apart from those in a pack, as a share of their norm: sums in another order
#: took the dense changes of full_finetune 1.4e-5 apart on one thread, a row's neighbour takes them tenths.
SAME_WEIGHTS = 1e-4


class BrokenRuleError(Exception):
    """A rule does not hold; ``part`` is the class or function that it is about, or a place in a file."""

    def __init__(self, what: str, part: object) -> None:
        super().__init__(what)
        self.part = part


def file_of(method: Method) -> Path:
    return Path(inspect.getfile(method.compose))


def recipe(method: Method) -> Recipe:
    """What the defaults compose to."""
    return method.compose(method.settings().resolved(STEPS_PER_TASK))


def _part_of_method(method: Method, kept: Recipe, kinds: Sequence[object]) -> object:
    """The first of these parts that the method's file defines, to be named; else its ``compose``."""
    parts = [type(part) for part in kinds if part is not None]
    return next((part for part in parts if part.__module__ == method.compose.__module__), method.compose)


# -- what it says of itself -------------------------------------------------------------------------------------------


def _described(method: Method, others: Sequence[Method]) -> None:
    for key in ("name", "summary", "source"):
        if not getattr(method, key).strip():
            raise BrokenRuleError(f"its {key} is empty", method.compose)
    lines = len(file_of(method).read_text(encoding="utf-8").splitlines())
    if lines > LONGEST_FILE:
        raise BrokenRuleError(f"its file has {lines} lines, more than {LONGEST_FILE}", method.compose)


def _settings(method: Method, others: Sequence[Method]) -> None:
    settings = method.settings().resolved(STEPS_PER_TASK)
    for key, value in settings.model_dump().items():
        if not isinstance(value, str | int | float | bool):
            raise BrokenRuleError(
                f"its setting '{key}' resolves to {value!r}; a record shows every setting", method.settings
            )
    if settings.resolved(STEPS_PER_TASK) != settings:
        raise BrokenRuleError("settings that are resolved change when they are resolved again", method.settings)
    for key in TRAINING_KEYS:
        if key in method.settings.model_fields:
            raise BrokenRuleError(f"its setting '{key}' has the name of a key that every arm has", method.settings)
    grid = method.settings.grid(STEPS_PER_TASK)
    for key, values in grid.items():
        if key not in method.settings.model_fields:
            raise BrokenRuleError(f"its grid has '{key}', which is none of its settings", method.settings)
        for value in values:
            method.settings.model_validate({key: value})


def _names(method: Method, others: Sequence[Method]) -> None:
    """Rules and averages of a pack are told apart by the names of their classes."""
    taken = {kind.__name__: other for other in others for kind in _kinds(recipe(other))}
    known = {kind for other in others for kind in _kinds(recipe(other))}
    for kind in _kinds(recipe(method)):
        if kind not in known and kind.__name__ in taken:
            raise BrokenRuleError(
                f"'{taken[kind.__name__].name}' has another part named {kind.__name__}; rename it", kind
            )


def _kinds(kept: Recipe) -> list[type]:
    return [type(part) for part in (*kept.updates, kept.average) if part is not None]


# -- what it does -----------------------------------------------------------------------------------------------------


def _trained(rule: Callable[[Method, Recipe], None]) -> Callable[[Method, Sequence[Method]], None]:
    """For rules about training, which a method that trains nothing keeps."""

    def holds(method: Method, others: Sequence[Method]) -> None:
        kept = recipe(method).under("continue")
        if kept.adapter is not None:
            rule(method, kept)

    return holds


def _starts_as_base(method: Method, kept: Recipe) -> None:
    assert kept.adapter is not None, "a rule about training"
    model = tiny_model()
    engine = make_engine(model, kept, [1e-3] * 2, range(2))
    ids = torch.arange(3, 23).view(2, 10)
    base = model.hidden(ids)
    for row in range(2):
        scored = engine.scored(row, kept)
        with model.adapted(scored.layout, scored.values[None], torch.tensor([scored.scaling])):
            adapted = model.hidden(ids)
        # Where large terms cancel, as in PiSSA, they do so up to rounding.
        same = torch.allclose(adapted, base, atol=1e-4) if kept.adapter.puts_below else torch.equal(adapted, base)
        if not same:
            what = f"untrained, it differs from the base by {float((adapted - base).abs().max()):.2g}"
            raise BrokenRuleError(what, _part_of_method(method, kept, [kept.adapter, kept.average]))


def _learns(method: Method, kept: Recipe) -> None:
    """On the given answers, whatever its loss is on: students that agree with their teacher may have learnt nothing."""
    rows = range(len(TOY_RATES))
    model = tiny_model(copies=bool(kept.loss.demonstration))
    engine, data = make_engine(model, kept, TOY_RATES, rows), [learnable(120, row) for row in rows]
    start = _given_losses(engine, kept, data)
    train(engine, make_steps(kept, data, 30, rows))
    end = _given_losses(engine, kept, data)
    if not (engine.alive & (end < 0.7 * start)).any():
        shown = ", ".join(f"{a:.3g} -> {b:.3g}" for a, b in zip(start.tolist(), end.tolist(), strict=True))
        what = f"-log p of the right answers to a toy that LoRA learns does not fall by 30 % at any rate: {shown}"
        raise BrokenRuleError(what, method.compose)


def _given_losses(engine: Rows, kept: Recipe, data: Sequence[Sequence[Example]]) -> Tensor:
    """Mean -log p of the given answers' tokens under each row's student, [K]."""
    model, losses = engine.model, []
    for row, examples in enumerate(data):
        ids, start = torch.from_numpy(np.stack([e.ids for e in examples])), examples[0].answer_start
        scored = engine.scored(row, replace(kept, scored="student"))
        with model.adapted(scored.layout, scored.values[None], torch.tensor([scored.scaling])):
            hidden = model.hidden(ids)[:, start - 1 : -1]
        logits = model.logits(hidden.flatten(0, 1))
        losses.append(torch.nn.functional.cross_entropy(logits, ids[:, start:].flatten()))
    return torch.stack(losses)


def _leaves_base(method: Method, kept: Recipe) -> None:
    model = tiny_model()
    before = model.digest()
    train_two_tasks(make_engine(model, kept, [1e-2] * 2, range(2)), kept, range(2))
    if model.digest() != before:
        raise BrokenRuleError(
            "training changed the frozen base model", _part_of_method(method, kept, [kept.adapter, *kept.updates])
        )


def _resumes(method: Method, kept: Recipe) -> None:
    """From a checkpoint within a task, and from one between two tasks, which is where a run writes them."""
    model, rates, rows = tiny_model(), [2e-2, 1e-3, 1e-4], range(3)
    steps, later = make_steps(kept, random_data(3), 9, rows), make_steps(kept, random_data(3, task=1), 3, rows)
    part = _part_of_method(method, kept, [*kept.updates, kept.average, kept.loss])
    for boundary in (False, True):
        engine = make_engine(model, kept, rates, rows)
        train(engine, steps[:6])
        if boundary:
            engine.end_task()
        saved = {name: tensor.clone() for name, tensor in engine.state().items()}
        # Other starts, so that what is not loaded shows; a new task's start may come from the seed, so not there.
        fresh = make_engine(model, kept, rates, rows if boundary else [7, 8, 9])
        fresh.load(saved)
        losses = []
        for each in (engine, fresh):
            if boundary:
                each.begin_task(1, [random_examples(40, seed + 10) for seed in rows])
            losses.append(train(each, later if boundary else steps[6:], first=0 if boundary else 6))
        ours, theirs = fresh.state(), engine.state()
        when = "between two tasks" if boundary else "within a task"
        if other := [name for name in theirs if name not in ours or not torch.equal(ours[name], theirs[name])]:
            what = f"after saving and loading {when} and three more steps these differ: {', '.join(other)}"
            raise BrokenRuleError(what, part)
        if not torch.equal(*losses):
            what = f"losses differ after loading {when}: state() leaves out something that a later step depends on"
            raise BrokenRuleError(what, part)
        if not all(torch.equal(fresh.scored(k, kept).values, engine.scored(k, kept).values) for k in rows):
            raise BrokenRuleError(f"what is scored differs after loading {when}: state() leaves out a part of it", part)


def _alone_is_packed(method: Method, kept: Recipe) -> None:
    model, rates = tiny_model(), [3e-3, 1e-3, 3e-4]
    engine = make_engine(model, kept, rates, range(3))
    packed_losses = train_two_tasks(engine, kept, range(3))
    for row, rate in enumerate(rates):
        alone = make_engine(model, kept, [rate], [row])
        losses = train_two_tasks(alone, kept, [row])[:, 0]
        ours, theirs = alone.scored(0, kept).values, engine.scored(row, kept).values
        apart = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))
        if not torch.allclose(losses, packed_losses[:, row], rtol=1e-5, atol=1e-5) or apart > SAME_WEIGHTS:
            what = f"row {row} of a pack of three differs from the same trial alone (weights by {apart:.2g})"
            raise BrokenRuleError(what, _part_of_method(method, kept, [*kept.updates, kept.average, kept.loss]))


def _reads_nothing_back(method: Method, kept: Recipe) -> None:
    engine = make_engine(tiny_model(), kept, [1e-3] * 3, range(3))
    for task in range(2):
        steps = make_steps(kept, random_data(3, task=task), 2, range(3))
        if task:
            engine.end_task()
            engine.begin_task(task, [random_examples(40, seed + 10) for seed in range(3)])
        train(engine, steps[:1])
        with HostReads() as reads, watched(reads):
            take_step(engine, steps[1], 0.5, 0.5)
        if reads.noted:
            name, frames = reads.noted[0]
            lines_of_method = [f"{file}:{line}" for file, line in frames if file == str(file_of(method))]
            what = f"it reads a value back from the device ({name}), which a GPU has to wait for"
            raise BrokenRuleError(what, lines_of_method[0] if lines_of_method else method.compose)


def _parts_work(method: Method, kept: Recipe) -> None:
    """Without an update rule it trains to something else; what an average scores is not what was trained."""
    model = tiny_model()
    for update in kept.updates:
        others = replace(kept, updates=tuple(other for other in kept.updates if other is not update))
        # What steps of the usual size leave as it is, as a rule about intruder dimensions may, larger ones show.
        if not any(_differ(model, kept, others, rate) for rate in (1e-2, 1e-1)):
            raise BrokenRuleError(f"over two tasks its {type(update).__name__} changes nothing", type(update))
    if kept.scored == "average":
        engine = make_engine(model, kept, [1e-2], [0])
        train_two_tasks(engine, kept, [0])
        student = replace(kept, scored="student")
        ours, theirs = (changes(model, engine.scored(0, each)) for each in (kept, student))
        if torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7):
            raise BrokenRuleError("what it scores is what was trained, and no average of it", type(kept.average))


def _differ(model: PackedModel, one: Recipe, other: Recipe, rate: float) -> bool:
    """Whether two recipes train to different weights over two tasks."""
    trained = []
    for kept in (one, other):
        engine = make_engine(model, kept, [rate], [0])
        train_two_tasks(engine, kept, [0])
        trained.append(engine.bank.values)
    return not torch.equal(*trained)


def _lags_alike(method: Method, kept: Recipe) -> None:
    if kept.average is None or not kept.average.follows:
        return
    found = lags(method.compose(method.settings().resolved(LAG_STEPS)).under("continue"))
    if max(found[1:]) > MOST_GROWTH * min(found[1:]):
        shown = ", ".join(f"{lag:.2f}" for lag in found)
        what = f"over equal tasks its average is not equally far behind the student, in shares of a task's way: {shown}"
        raise BrokenRuleError(what, _part_of_method(method, kept, [kept.average]))


def _inspects_as_declared(method: Method, kept: Recipe) -> None:
    if wrong := undeclared(kept):
        raise BrokenRuleError("; ".join(wrong), _part_of_method(method, kept, [kept.adapter, *kept.updates]))


def _is_its_cross_entropy(method: Method, kept: Recipe) -> None:
    if not kept.loss.given:
        return
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 12, 7, generator=generator)
    target, row, position = (torch.arange(12) % size for size in (7, 2, 6))
    bound = type(kept.loss).bind([kept.loss] * 2, student.device)
    for taught in (False, True):
        if bound.is_cross_entropy(taught=taught):
            found = bound.tokens(student, teacher if taught else None, target, row, position)
            if not torch.allclose(found, cross_entropy(student, target)):
                what = "its loss says that it is the cross-entropy alone (is_cross_entropy), and is something else"
                raise BrokenRuleError(what, _part_of_method(method, kept, [kept.loss]))


RULES: dict[str, Callable[[Method, Sequence[Method]], None]] = {
    "it is described, in a file that can be read": _described,
    "its settings have defaults that resolve": _settings,
    "its parts have names of their own": _names,
    "it starts as the base model": _trained(_starts_as_base),
    "it learns a toy": _trained(_learns),
    "the base stays as it is": _trained(_leaves_base),
    "a checkpoint goes on bit for bit": _trained(_resumes),
    "alone is as packed": _trained(_alone_is_packed),
    "a step reads nothing back": _trained(_reads_nothing_back),
    "its parts do something": _trained(_parts_work),
    "its average lags alike at every position": _trained(_lags_alike),
    "what it looks at is declared": _trained(_inspects_as_declared),
    "its cross-entropy is one": _trained(_is_its_cross_entropy),
}
