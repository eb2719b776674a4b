"""The front door of tasks with rows: splits that are in the cache, built where they are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from harness.data.tasks import cache
from harness.data.tasks.lm_eval import rows as lm_eval_rows
from harness.data.tasks.lm_eval import yaml_files
from harness.data.tasks.load import load_task
from harness.data.tasks.own import benchmark, splits
from harness.data.tasks.spec import FEWSHOT, SPLITS, PreparedTask, Task
from harness.errors import LorabenchError, unknown_name


def task_ready(name: str) -> bool:
    """True where the task's splits are in the cache and whole, so that ``prepare_task`` needs no network."""
    return cache.read_manifest(load_task(name)) is not None


def prepare_task(name: str) -> PreparedTask:
    """The task with its splits in the cache; builds and checks them the first time, later only reads (quick).

    Raises InputError where the task breaks its declaration (file:key), LorabenchError where a download fails.
    """
    task = load_task(name)
    ours = task.origin == "lorabench"
    manifest = cache.read_manifest(task) or _builder(task)(task)
    folder = cache.cache_folder(task)
    files = {split: folder / f"{split}.jsonl" for split in manifest["files"]}
    config = task.config if ours else yaml_files.resolved(task, files)
    task = replace(task, splits=manifest["counts"])
    return PreparedTask(task, files, manifest["digest"], config, shuffled=ours, source=manifest["source"])


def _builder(task: Task) -> Callable[[Task], dict]:
    if task.files:
        return benchmark.build
    return splits.build if task.origin == "lorabench" else lm_eval_rows.build


def read_split(prepared: PreparedTask, split: str) -> list[dict]:
    """The documents of one split, in their fixed order; an empty list where the task lacks the split.

    Raises LorabenchError where the file was damaged since the task was prepared.
    """
    if split not in (*SPLITS, FEWSHOT):
        raise unknown_name("split", split, (*SPLITS, FEWSHOT))
    if split not in prepared.files:
        return []
    file = prepared.files[split]
    try:
        with file.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except (OSError, ValueError, RecursionError) as problem:
        what, remedy = f"it was damaged after it was checked: {problem}", "run again: it is built anew"
        raise LorabenchError(what, where=str(file), remedy=remedy) from problem
