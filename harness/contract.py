"""What every method must do, as rules that can be checked outside of the tests: ``lorabench methods --check NAME``.

The rules are run on a random two-layer model and on random data, in seconds.  One that is broken is named, with the
line of the part that breaks it.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.engine.batches import Example, Step, make_step
from harness.engine.method import Method, Recipe
from harness.engine.model import PackedModel
from harness.engine.optimizer import AdamWSettings
from harness.engine.trainer import RowSpec, Scored, Trainer
from harness.errors import InputError, unknown_name
from harness.study.overrides import OWN
from harness.study.seeds import derive

STEPS_PER_TASK = 64
LONGEST_FILE = 200  # lines: a method is read from top to bottom
SIZE = 4  # examples of a step
#: Rates at one of which the toy is learnt: LoRA's, and that of methods with larger steps.
TOY_RATES = (1e-2, 2e-3)
CPU = torch.device("cpu")


class BrokenRuleError(Exception):
    """A rule does not hold; ``part`` is the class or function that it is about, or a place in a file."""

    def __init__(self, what: str, part: object) -> None:
        super().__init__(what)
        self.part = part


def check(name: str, methods: Mapping[str, Method]) -> Iterator[str]:
    """The rules that the method keeps, one after the other; raises InputError at the first that it breaks."""
    if name not in methods:
        raise unknown_name("method", name, methods)
    method = methods[name]
    others = [other for other in methods.values() if other is not method]
    for rule, holds in RULES.items():
        try:
            holds(method, others)
        except BrokenRuleError as error:
            raise _refusal(method, rule, str(error), _place(error.part)) from error
        except InputError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise _refusal(method, rule, what, _raised_at(error, method)) from error
        yield rule


def _refusal(method: Method, rule: str, what: str, where: str) -> InputError:
    return InputError(
        f"the method '{method.name}' breaks the rule '{rule}': {what}",
        where=where,
        remedy="see the contract in harness/engine/method.py; then check again",
    )


def _place(part: object) -> str:
    """``file:line`` of a class, a function, or the class of a value; a place as it is."""
    if isinstance(part, str):
        return part
    part = part if inspect.isclass(part) or inspect.isfunction(part) else type(part)
    try:
        return f"{inspect.getsourcefile(part)}:{inspect.getsourcelines(part)[1]}"
    except (OSError, TypeError):
        return repr(part)


def _raised_at(error: BaseException, method: Method) -> str:
    """The last line of the method's own file that an error came through."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(_file(method))]
    return f"{_file(method)}:{lines[-1]}" if lines else _place(method.compose)


def _file(method: Method) -> Path:
    return Path(inspect.getfile(method.compose))


def recipe(method: Method) -> Recipe:
    """What the defaults compose to."""
    return method.compose(method.settings().resolved(STEPS_PER_TASK))


def _own(method: Method, kept: Recipe, kinds: Sequence[object]) -> object:
    """The first of these parts that the method's file defines, to be named; else its ``compose``."""
    parts = [type(part) for part in kinds if part is not None]
    return next((part for part in parts if part.__module__ == method.compose.__module__), method.compose)


# -- what it says of itself -------------------------------------------------------------------------------------------


def _described(method: Method, others: Sequence[Method]) -> None:
    for key in ("name", "summary", "source"):
        if not getattr(method, key).strip():
            raise BrokenRuleError(f"its {key} is empty", method.compose)
    lines = len(_file(method).read_text(encoding="utf-8").splitlines())
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
    for key in OWN:
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
    model = tiny_model()
    engine = _engine(model, kept, [1e-3] * 2, range(2))
    ids = torch.arange(3, 23).view(2, 10)
    base = model.hidden(ids)
    for row in range(2):
        scored = engine.scored(row, kept)
        with model.adapted(scored.layout, scored.values[None], torch.tensor([scored.scaling])):
            found = model.hidden(ids)
        # Where large terms cancel, as in PiSSA, they do so up to rounding.
        same = torch.allclose(found, base, atol=1e-4) if kept.adapter.taken_off else torch.equal(found, base)
        if not same:
            what = f"untrained, it differs from the base by {float((found - base).abs().max()):.2g}"
            raise BrokenRuleError(what, _own(method, kept, [kept.adapter, kept.average]))


def _learns(method: Method, kept: Recipe) -> None:
    """On the given answers, whatever its loss is on: students that agree with their teacher may have learnt nothing."""
    rows = range(len(TOY_RATES))
    model = tiny_model(copies=bool(kept.loss.demonstration))
    engine, data = _engine(model, kept, TOY_RATES, rows), [_learnable(240, row) for row in rows]
    start = _given_losses(engine, kept, data)
    _train(engine, _steps(kept, data, 60, rows))
    end = _given_losses(engine, kept, data)
    if not (engine.alive & (end < 0.7 * start)).any():
        shown = ", ".join(f"{a:.3g} -> {b:.3g}" for a, b in zip(start.tolist(), end.tolist(), strict=True))
        what = f"-log p of the right answers to a toy that LoRA learns does not fall by 30 % at any rate: {shown}"
        raise BrokenRuleError(what, method.compose)


def _given_losses(engine: Trainer, kept: Recipe, data: Sequence[Sequence[Example]]) -> Tensor:
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
    _train_two_tasks(_engine(model, kept, [1e-2] * 2, range(2)), kept, range(2))
    if model.digest() != before:
        raise BrokenRuleError(
            "training changed the frozen base model", _own(method, kept, [kept.adapter, *kept.updates])
        )


def _resumes(method: Method, kept: Recipe) -> None:
    """From a checkpoint within a task, and from one between two tasks, which is where a run writes them."""
    model, rates, rows = tiny_model(), [2e-2, 1e-3, 1e-4], range(3)
    steps, later = _steps(kept, _random(3), 9, rows), _steps(kept, _random(3, task=1), 3, rows)
    part = _own(method, kept, [*kept.updates, kept.average, kept.loss])
    for boundary in (False, True):
        engine = _engine(model, kept, rates, rows)
        _train(engine, steps[:6])
        if boundary:
            engine.end_task()
        saved = {name: tensor.clone() for name, tensor in engine.state().items()}
        # Other starts, so that what is not loaded shows; a new task's start may come from the seed, so not there.
        fresh = _engine(model, kept, rates, rows if boundary else [7, 8, 9])
        fresh.load(saved)
        losses = []
        for each in (engine, fresh):
            if boundary:
                each.begin_task(1, [_random_examples(40, seed + 10) for seed in rows])
            losses.append(_train(each, later if boundary else steps[6:], first=0 if boundary else 6))
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
    engine = _engine(model, kept, rates, range(3))
    found = _train_two_tasks(engine, kept, range(3))
    for row, rate in enumerate(rates):
        alone = _engine(model, kept, [rate], [row])
        losses = _train_two_tasks(alone, kept, [row])[:, 0]
        ours, theirs = alone.scored(0, kept).values, engine.scored(row, kept).values
        apart = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))
        if not torch.allclose(losses, found[:, row], rtol=1e-5, atol=1e-5) or apart > 1e-4:
            what = f"row {row} of a pack of three differs from the same trial alone (weights by {apart:.2g})"
            raise BrokenRuleError(what, _own(method, kept, [*kept.updates, kept.average, kept.loss]))


def _reads_nothing_back(method: Method, kept: Recipe) -> None:
    engine = _engine(tiny_model(), kept, [1e-3] * 3, range(3))
    for task in range(2):
        steps = _steps(kept, _random(3, task=task), 2, range(3))
        if task:
            engine.end_task()
            engine.begin_task(task, [_random_examples(40, seed + 10) for seed in range(3)])
        _train(engine, steps[:1])
        with HostReads() as reads, _watched(reads):
            engine.step(steps[1], 0.5, 0.5)
        if reads.found:
            name, frames = reads.found[0]
            own = [f"{file}:{line}" for file, line in frames if file == str(_file(method))]
            what = f"it reads a value back from the device ({name}), which a GPU has to wait for"
            raise BrokenRuleError(what, own[0] if own else method.compose)


def _parts_work(method: Method, kept: Recipe) -> None:
    """Without an update rule it trains to something else; what an average scores is not what was trained."""
    model = tiny_model()
    engine = _engine(model, kept, [1e-2], [0])
    _train_two_tasks(engine, kept, [0])
    trained = engine.bank.values.clone()
    for update in kept.updates:
        others = tuple(other for other in kept.updates if other is not update)
        without = _engine(model, replace(kept, updates=others), [1e-2], [0])
        _train_two_tasks(without, replace(kept, updates=others), [0])
        if torch.equal(without.bank.values, trained):
            raise BrokenRuleError(f"over two tasks its {type(update).__name__} changes nothing", type(update))
    if kept.scored == "average":
        student = replace(kept, scored="student")
        ours, theirs = (_changes(model, engine.scored(0, each)) for each in (kept, student))
        if torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7):
            raise BrokenRuleError("what it scores is what was trained, and no average of it", type(kept.average))


def _changes(model: PackedModel, scored: Scored) -> Tensor:
    """What it does to the weights, in a line."""
    scaling = torch.tensor([float(scored.scaling)])
    changes = zip(scored.layout.changes(scored.values[None], scaling, torch.float64), model.weights(), strict=True)
    return torch.cat([change.delta(weight).flatten() for change, (_, weight) in changes])


class HostReads(TorchDispatchMode):
    """Collects what would make a GPU wait: values read back, and shapes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, int]]]] = []

    def note(self, name: str) -> None:
        frames = [(frame.filename, frame.lineno) for frame in inspect.stack(0)]
        # Students that give their own answers have to be read: whoever samples must know where an answer ends.
        if not any(file.endswith("harness/engine/generate.py") for file, _ in frames):
            self.found.append((name, frames))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1] or ()
        )
        if masked or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"):
            self.note(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def _watched(reads: HostReads) -> Iterator[None]:
    """Note ``tolist``, ``numpy`` and ``cpu`` as well, which do not show in a trace on a CPU."""
    originals = {name: getattr(Tensor, name) for name in ("tolist", "numpy", "cpu")}

    def watch(name: str) -> Callable[..., Any]:
        def read(tensor: Tensor, *arguments: Any, **settings: Any) -> Any:
            reads.note(name)
            return originals[name](tensor, *arguments, **settings)

        return read

    try:
        for name in originals:
            setattr(Tensor, name, watch(name))
        yield
    finally:
        for name, original in originals.items():
            setattr(Tensor, name, original)


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
}


# -- a bench of its own -----------------------------------------------------------------------------------------------


def tiny_model(*, copies: bool = False) -> PackedModel:
    """A random Llama of two layers with weights large enough for its logits to matter; the same every time.

    ``copies``: trained to repeat a shown answer, and to know nothing else of it: what a teacher with demonstrations is.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.15, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).float()
    if copies:
        _teach_to_copy(model)
    return PackedModel(model)


def _teach_to_copy(model: Any, steps: int = 80) -> None:
    rng, adam = np.random.default_rng(0), torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        toys = _learnable(64, int(rng.integers(2**31)), answer=rng)
        ids = torch.from_numpy(np.stack([np.concatenate([e.prompt, e.answer, e.ids]) for e in toys]))
        first = toys[0].answer_start
        asked = [first, first + 1, len(toys[0].ids) + first, len(toys[0].ids) + first + 1]
        logits = model(ids).logits[:, [place - 1 for place in asked]]
        adam.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, asked].flatten()).backward()
        adam.step()


def _engine(model: PackedModel, kept: Recipe, rates: Sequence[float], seeds: Sequence[int]) -> Trainer:
    rows = [RowSpec(kept, rate, seed) for rate, seed in zip(rates, seeds, strict=True)]
    engine = Trainer(model, rows, 8, 16.0, AdamWSettings())
    engine.begin_task(0, [_random_examples(40, seed) for seed in seeds])
    return engine


def _random(rows: int, task: int = 0) -> list[list[Example]]:
    return [_random_examples(80, row + 10 * task) for row in range(rows)]


def _random_examples(count: int, seed: int) -> list[Example]:
    """Random tokens with answers of one to three tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 14, size=count)
    return [Example(rng.integers(3, 97, size=n), int(n) - int(rng.integers(1, 4))) for n in lengths]


def _learnable(count: int, seed: int, answer: np.random.Generator | None = None) -> list[Example]:
    """The token before the answer decides it; or nothing does, and it is drawn from those that there are."""
    rng = np.random.default_rng(seed)
    asked = rng.integers(3, 7, size=count)
    said = 90 - (asked if answer is None else answer.integers(3, 7, size=count))
    return [Example(np.array([1, *rng.integers(10, 20, size=3), q, a, 2]), 5) for q, a in zip(asked, said, strict=True)]


def _steps(kept: Recipe, data: Sequence[Sequence[Example]], count: int, seeds: Sequence[int]) -> list[Step]:
    """``count`` steps; a teacher that is shown the answer reads prompt, answer and prompt."""
    if kept.loss.demonstration:
        data = [[Example(e.ids, e.answer_start, np.concatenate([e.prompt, e.answer, e.prompt])) for e in examples]
                for examples in data]  # fmt: skip
    return [
        make_step([rows[s * SIZE : (s + 1) * SIZE] for rows in data], 0, CPU, seeds=[derive(k, s) for k in seeds])
        for s in range(count)
    ]


def _train(engine: Trainer, steps: Sequence[Step], *, first: int = 0) -> Tensor:
    """Losses [steps, K]."""
    return torch.stack([engine.step(step, min(1.0, (first + s + 1) / 5), 0.5)[0] for s, step in enumerate(steps)])


def _train_two_tasks(engine: Trainer, kept: Recipe, rows: Sequence[int]) -> Tensor:
    """Losses [steps, K] of a few steps on each of two tasks, for an engine that has begun the first."""
    losses = []
    for task in range(2):
        if task:
            engine.end_task()
            engine.begin_task(task, [_random_examples(40, row + 10) for row in rows])
        data = _random(max(rows) + 1, task)
        losses.append(_train(engine, _steps(kept, [data[row] for row in rows], 4, rows)))
    return torch.cat(losses)
