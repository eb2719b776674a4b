"""``lorabench fetch``: a model and tasks made ready to be used offline."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from harness.data import models, tasks


def fetch(task_names: Iterable[str], model: str, report: Callable[[str], None]) -> models.ModelSource:
    """Make the model and the tasks ready to be used offline; ``report`` is called with one line a step."""
    if models.model_ready(model):
        source = models.resolve_model(model)
        report(f"model {model}: ready in {source.path}")
    else:
        report(f"model {model}: fetching or building, once")
        source = models.resolve_model(model)
        report(f"model {model}: made {source.path}")
    for name in task_names:
        if not tasks.task_ready(name):
            report(f"task {name}: building from {tasks.load_task(name).source}")
        prepared = tasks.prepare_task(name)
        sizes = ", ".join(f"{count} {split}" for split, count in prepared.task.splits.items() if count)
        report(f"task {name}: ready ({sizes})")
    return source
