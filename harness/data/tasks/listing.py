"""What ``lorabench tasks`` lists: the project's tasks, or lm-eval's."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Collection, Mapping
from typing import Any

from harness.data.sources import cl_benchmark
from harness.data.tasks.lm_eval import index as lm_eval_index
from harness.data.tasks.load import load_task, task_names
from harness.data.tasks.prepare import prepare_task
from harness.data.tasks.spec import SPLITS, Task
from harness.errors import InputError


def project_tasks(pattern: str) -> list[dict[str, Any]]:
    """A row for each of the project's tasks whose name matches a shell pattern."""
    rows = []
    for name in _matching(task_names(), pattern):
        task = load_task(name)
        splits, source = _rows_of(task)
        sizes = "/".join(str(splits.get(split, 0)) for split in SPLITS)
        row = {"name": name, "role": task.role, "kind": task.kind, "splits": sizes, "chance": task.chance}
        rows.append(row | {"licence": task.licence, "source": source})
    return rows


def _rows_of(task: Task) -> tuple[Mapping[str, int], str]:
    """(rows of each split, where they come from): as declared, or as the benchmark's files that are named have them."""
    if task.files is None:
        return task.splits, task.source
    parts = cl_benchmark.parts(task.files)
    if not parts:
        return {}, f"{task.source}, which has neither train.json nor test.json"
    ready = prepare_task(task.name)
    return ready.task.splits, ready.source


def lm_eval_tasks(pattern: str, report: Callable[[str], object]) -> list[dict[str, Any]]:
    """A row for each name of lm-eval's that matches; ``report`` is told where the index has to be made first."""
    if not lm_eval_index.index_file().is_file():
        report("reading lm-eval's task files, once: some 10 seconds")
    entries = lm_eval_index.index()
    rows = []
    for name in _matching(entries, pattern):
        entry = entries[name]
        kind, members = entry["kind"], len(entry["members"])
        row = {"name": name, "kind": f"{kind} of {members}" if members else kind, "output_type": entry["output_type"]}
        trains = entry["training_split"] if kind == "task" else None
        rows.append(row | {"training_split": trains, "data_set": entry["dataset_path"]})
    return rows


def _matching(names: Collection[str], pattern: str) -> list[str]:
    """The names that match.  InputError for a name without wildcards that is unknown: a slip."""
    matching = fnmatch.filter(names, pattern)
    if not matching and not set(pattern) & set("*?["):
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
        remedy = f"{hint}list them: lorabench tasks, or lorabench tasks --lm-eval"
        raise InputError(f"there is no task '{pattern}' in this list", where="PATTERN", remedy=remedy)
    return matching
