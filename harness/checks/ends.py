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

#: The end that is seen -> what may be declared of it, where one adapter goes through the stream.
SEEN: dict[str, tuple[When, ...]] = {
    "with the first task": ("start", "begin"), "before the second task": ("begin",), "after a task": ("end",),
}  # fmt: skip


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
        if bool(read[end]) != bool(declared & set(whens)):
            differ.append(f"{end} it reads {read[end]} tokens, and its parts' inspects say otherwise")
    if bool(asked) != any(part.takes_spectra for part in parts):
        differ.append("takes_spectra does not say whether it looks at the SVDs of W0")
    return differ


def _tokens_read(kept: Recipe, asked: list[None]) -> dict[str, int]:
    """Tokens by end of a task; ``asked`` grows each time that it looks at the SVDs."""
    model = tiny_model()
    engine = Rows(
        model, [RowSpec(kept, 1e-3, 0)], 8, 16.0, OptimizerSettings(), partial(_spectra, model, asked), toy_text
    )
    engine.begin_task(0, [random_examples(40, 0)])
    (first,) = engine.take_read_tokens()
    train(engine, make_steps(kept, random_data(1), 1, [0]))
    engine.end_task()
    (after,) = engine.take_read_tokens()
    engine.begin_task(1, [random_examples(40, 10)])
    (second,) = engine.take_read_tokens()
    return dict(zip(SEEN, (first, second, after), strict=True))


def _spectra(model: PackedModel, asked: list[None]) -> Sequence[Spectrum]:
    asked.append(None)
    return [spectrum(weight[None]) for _, weight in model.weights()]
