"""Text that a task's source has and none of its splits: for starts that look at text, which never is what is scored."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from harness.data.tasks.load import load_task
from harness.data.tasks.own.documents import documents
from harness.data.tasks.own.rendering import question
from harness.data.tasks.own.splits import deal
from harness.data.tasks.spec import Task
from harness.errors import InputError


def check_text(name: str, where: str) -> Task:
    """The task of this name, if it may have such text; nothing is fetched.  Raises InputError with ``where``."""
    task = load_task(name)
    if task.origin != "lorabench" or task.kind != "loglikelihood_rolling":
        raise InputError(
            f"task '{name}' is not made of running text of the bench's own, so no start can look at it",
            where=where,
            remedy="name a task with output_type: loglikelihood_rolling and a prepare.py, such as plain_text",
        )
    return task


def unscored(name: str) -> tuple[str, ...]:
    """The documents that are in no split of a task, in the order in which they were shuffled.

    Raises InputError where none are left over, or where the task has no running text.
    """
    task = check_text(name, name)
    return _unscored(name, task.yaml, task.yaml.stat().st_mtime)


@lru_cache(maxsize=4)
def _unscored(name: str, yaml: Path, written: float) -> tuple[str, ...]:
    task = load_task(name)
    left = deal(task, documents(task))[1]
    if not left:
        raise InputError(
            f"every document of '{name}' is in one of its splits, so none is left for a start to look at",
            where=task.where("metadata.splits"),
            remedy="declare smaller splits, or give more rows in prepare.py",
        )
    return tuple(question(task, doc) for doc in left)
