"""What a method reads at the ends of tasks, beside what it says that it reads there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from harness.analysis.intruders import Spectrum, spectrum
from harness.checks.toys import make_steps, random_data, random_examples, tiny_model, toy_text, train
from harness.engine.model.packed import PackedModel
from harness.engine.optimizer import OptimizerSettings
from harness.engine.rows import Rows, RowSpec
from harness.method.recipe import Recipe
from harness.study.inspection import When

#: The ends of two tasks, one adapter going through both -> what may be declared of each.
SEEN: dict[str, tuple[When, ...]] = {
    "with the first task": ("start", "begin"), "before the second task": ("begin",),
    "after the first task": ("end",), "after the second task": ("end",),
}  # fmt: skip
#: Where what is declared may be seen, one of these at least: a rule may have nothing to do at the first task, and for
#: what is done there alone there is "start".
SHOWS: dict[When, tuple[str, ...]] = {
    "start": ("with the first task", "before the second task"),
    "begin": ("before the second task",),
    "end": ("after the first task", "after the second task"),
}


def undeclared(kept: Recipe) -> list[str]:
    """What differs between what it does over two tasks and what its parts declare; empty where nothing does."""
    parts = [part for part in (kept.adapter, *kept.updates) if part is not None]
    declared = {each.when for part in parts for each in part.inspects if each.reads}
    asked: list[None] = []
    read = _tokens_read(kept, asked)
    differ = []
    for end, whens in SEEN.items():
        if end == "before the second task" and kept.between in ("reinit", "fresh"):
            whens = (*whens, "start")
        if read[end] and not declared & set(whens):
            differ.append(f"{end} it reads {read[end]} tokens, and its parts' inspects say otherwise")
    for when, ends in SHOWS.items():
        if when in declared and not any(read[end] for end in ends):
            differ.append(f"its parts' inspects say that it reads at '{when}', and {' and '.join(ends)} it reads none")
    if bool(asked) != any(part.takes_spectra for part in parts):
        differ.append("takes_spectra does not say whether it looks at the SVDs of W0")
    return differ


def _tokens_read(kept: Recipe, asked: list[None]) -> dict[str, int]:
    """Tokens by end of a task; ``asked`` grows each time that it looks at the SVDs."""
    model = tiny_model()
    engine = Rows(
        model, [RowSpec(kept, 1e-3, 0)], 8, 16.0, OptimizerSettings(), partial(_spectra, model, asked), toy_text
    )
    begun, ended = [], []
    for task in range(2):
        engine.begin_task(task, [random_examples(40, 10 * task)])
        begun += engine.take_read_tokens()
        train(engine, make_steps(kept, random_data(1, task), 1, [0]))
        engine.end_task()
        ended += engine.take_read_tokens()
    return dict(zip(SEEN, begun + ended, strict=True))


def _spectra(model: PackedModel, asked: list[None]) -> Sequence[Spectrum]:
    asked.append(None)
    return [spectrum(weight[None]) for _, weight in model.weights()]
