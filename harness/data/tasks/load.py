"""The front door of declared tasks: which there are, and what one of them is, nothing fetched yet."""

from __future__ import annotations

import difflib

from harness.data import paths
from harness.data.tasks.lm_eval import index
from harness.data.tasks.lm_eval import task as lm_eval_task
from harness.data.tasks.own.folders import read_task, task_files
from harness.data.tasks.spec import Task
from harness.errors import InputError


def task_names() -> list[str]:
    """The tasks that are folders here, sorted; lm-eval's are not among them."""
    return sorted(task_files())


def load_task(name: str) -> Task:
    """Read and check a task's YAML: of its folder, or else lm-eval's.

    Raises InputError: an unknown name, a task of lm-eval's that can't be used, or a bad value as ``file:key``.
    """
    files = task_files()
    if name in files:
        return read_task(name, files[name])
    entry = index.index().get(name)
    if entry is None:
        raise _unknown(name, sorted(files))
    return lm_eval_task.load(name, entry)


def _unknown(name: str, folders: list[str]) -> InputError:
    """Names the nearest of both lists; folders first where both are as near."""
    near = difflib.get_close_matches(name, [*folders, *index.index()], n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    known = f"known: {', '.join(folders) or 'none'}; and lm-eval's own: lorabench tasks --lm-eval"
    return InputError(f"unknown task '{name}'", where=paths.shown(paths.tasks_dir()), remedy=hint + known)
