"""lm-eval's task objects for the tasks of a study: what is asked, how it counts, and what a training example says.

The same task object renders the training examples and the test items, so the two can't drift apart.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.engine.batches import Example
from harness.errors import InputError

# lm-eval's tasks here are local files; nothing may wait for a hub (measured: a hang or a five-second retry each).
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval draws a bar for every task

EncodePair = Callable[[str, str], tuple[list[int], list[int]]]


@dataclass(frozen=True)
class TaskData:
    """What the suite needs of a task: lm-eval's configuration and the rows of each split."""

    name: str
    config: Mapping[str, Any]
    splits: Mapping[str, Sequence[Mapping[str, Any]]]  # train, validation, test
    chance: float | None


@dataclass(frozen=True)
class ScoredTask:
    """One lm-eval task, loaded, with its requests built once."""

    name: str
    task: Any  # lm_eval.api.task.ConfigurableTask
    kind: str
    metric: str
    higher_is_better: bool
    chance: float | None
    items: int


class Suite:
    """Every task and probe of a study, ready to be asked.

    ``split`` names the rows that are scored (``test`` or ``validation``) and ``items`` how many of them at most.
    """

    def __init__(self, data: Sequence[TaskData], *, split: str, items: Mapping[str, int | None]) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self._train = {task.name: list(task.splits.get("train", ())) for task in data}
        self.tasks = {task.name: _load(task, split, items.get(task.name)) for task in data}

    def training_examples(self, name: str, encode: EncodePair, end: int | None) -> list[Example]:
        """Every training row of a task, as lm-eval would ask it and with the right answer behind it.

        ``encode`` is lm-eval's ``_encode_pair``; ``end`` is appended for generation tasks only.
        """
        scored = self.tasks[name]
        if not self._train[name]:
            raise InputError(f"task '{name}' has no training split", remedy="use it as a probe, not in a stream")
        examples = []
        for number, row in enumerate(self._train[name]):
            context = scored.task.fewshot_context(row, num_fewshot=0)
            prompt, answer = encode(context, _answer(scored, row, f"{name}: training row {number}"))
            if scored.kind == "generate_until" and end is not None:
                answer = [*answer, end]
            examples.append(Example(np.asarray([*prompt, *answer], dtype=np.int64), len(prompt)))
        return examples


def _answer(scored: ScoredTask, row: Mapping[str, Any], where: str) -> str:
    """The target delimiter and the right answer of a row, as text."""
    task = scored.task
    delimiter = task.config.target_delimiter
    target = task.doc_to_target(row)
    if scored.kind == "multiple_choice":
        choices = task.doc_to_choice(row)
        if not isinstance(target, int) or not 0 <= target < len(choices):
            raise InputError(
                f"label {target!r} is not one of the {len(choices)} choices",
                where=where,
                remedy="correct the row or the task's doc_to_target",
            )
        return delimiter + choices[target]
    return delimiter + (target[0] if isinstance(target, list) else str(target))


def _load(data: TaskData, split: str, items: int | None) -> ScoredTask:
    import datasets
    from lm_eval.tasks import TaskManager

    from harness.scoring import metrics

    rows = list(data.splits.get(split) or ())[:items]
    if not rows:
        raise InputError(f"task '{data.name}' has no rows in its {split} split", remedy="choose another split")

    def custom_dataset(**_: Any) -> dict[str, datasets.Dataset]:
        return {"test": datasets.Dataset.from_list([dict(row) for row in rows])}

    hidden = ("training_split", "validation_split", "fewshot_split")
    config = {key: value for key, value in data.config.items() if key not in hidden}
    config |= {"task": data.name, "test_split": "test", "custom_dataset": custom_dataset}
    config |= metrics.with_source(data.config, f"task '{data.name}'")
    task = TaskManager(include_defaults=False).load([config])["tasks"][data.name]
    task.set_fewshot_seed(seed=0)
    first = data.config["metric_list"][0]
    scored = ScoredTask(
        name=data.name,
        task=task,
        kind=str(data.config["output_type"]),
        metric=str(first["metric"]),
        higher_is_better=bool(first.get("higher_is_better", True)),
        chance=data.chance,
        items=len(rows),
    )
    _build_once(task)
    return scored


def _build_once(task: Any) -> None:
    """Build lm-eval's requests now, and make later evaluations reuse them with their answers wiped.

    ``evaluate`` builds them anew for every model otherwise, which costs more than scoring a small one.
    """
    task.build_all_requests(rank=0, world_size=1)

    def reuse(**_: Any) -> None:
        for instance in task.instances:
            instance.resps = []
            instance.filtered_resps = {}

    task.build_all_requests = reuse
