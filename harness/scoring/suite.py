"""lm-eval's task objects for the tasks of a study: what is asked, how it counts, and what a training example says.

The same task object renders the training examples and the test items, so the two can't drift apart.
"""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from harness.engine.batches import Example, fill_teacher_prompt
from harness.errors import InputError, LorabenchError, unknown_name

# lm-eval's tasks here are local files; nothing may wait for a hub (measured: a hang or a five-second retry each).
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval draws a bar for every task

EncodePair = Callable[[str, str], tuple[list[int], list[int]]]
ChatTemplate = Callable[..., str]  #: ``PackedLM.apply_chat_template``: messages -> the prompt's text

#: lm-eval's own seed for few-shot examples, and ours for the items of a task whose rows are not shuffled.
FEWSHOT_SEED = 1234


@dataclass(frozen=True)
class TaskData:
    """What the suite needs of a task: lm-eval's configuration and the rows of each split."""

    name: str
    config: Mapping[str, Any]
    splits: Mapping[str, Sequence[Mapping[str, Any]]]  # train, validation, test, fewshot
    chance: float | None
    shuffled: bool = True  #: whether the first n rows are a fair sample


@dataclass(frozen=True)
class Prompting:
    """How prompts are put: examples before the question, by task, and the model's chat template (none: plain text).

    A task without a count has what its own configuration says, or none.  Training examples never have any.
    """

    fewshot: Mapping[str, int | None] = field(default_factory=dict)
    chat_template: ChatTemplate | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of lm-eval's ``build_all_requests``."""
        chat = self.chat_template is not None
        return {"apply_chat_template": chat, "fewshot_as_multiturn": chat, "chat_template": self.chat_template}


@dataclass
class ScoredTask:
    """One lm-eval task, loaded, with its requests built once."""

    name: str
    task: Any  # lm_eval.api.task.ConfigurableTask
    kind: str
    metric: str
    higher_is_better: bool
    chance: float | None
    items: int
    heard: list[dict[str, Any]] = field(default_factory=list)  #: metrics of each item in lm-eval's latest evaluation

    @property
    def aggregate(self) -> Callable[[Sequence[Any]], float]:
        """lm-eval's function from the values of all items to the score."""
        return self.task.aggregation()[self.metric]

    def values(self) -> list[Any]:
        """The score's value on each item; a task with several filters is scored by its first."""
        return [metrics[self.metric] for metrics in self.heard[: self.items]]


class TrainingExamples(Sequence[Example]):
    """Rows rendered when they are first asked for: a trial sees a few hundred of what may be hundreds of thousands."""

    def __init__(self, count: int, render: Callable[[int], Example]) -> None:
        self._count, self._render = count, cache(render)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._render(int(index))


class Suite:
    """Every task and probe of a study, ready to be asked.

    ``split`` names the rows that are scored (``test`` or ``validation``) and ``items`` how many of them at most.
    """

    def __init__(
        self,
        data: Sequence[TaskData],
        *,
        split: str,
        items: Mapping[str, int | None],
        prompting: Prompting | None = None,
    ) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self._prompting = prompting or Prompting()
        self._trained = {task.name for task in data if task.splits.get("train")}
        self.tasks = {task.name: self._load(task, _chosen(task, split, items.get(task.name))) for task in data}

    def training_examples(
        self, name: str, encode: EncodePair, end: int | None, demonstration: str | None = None
    ) -> TrainingExamples:
        """The training rows of a task, as lm-eval would ask them (without shots) and with the right answer behind it.

        ``encode`` is lm-eval's ``_encode_pair``; ``end`` is appended for generation tasks only.  ``demonstration`` is
        the template of a teacher's prompt that shows the answer; where the model's chat template is used, it is put
        into the user's turn.
        """
        scored = self.tasks[name]
        if name not in self._trained:
            raise InputError(f"task '{name}' has no training split", remedy="use it as a probe, not in a stream")
        rows = scored.task.training_docs()

        def render(number: int) -> Example:
            context, target = self._asked(scored, rows[number], f"{name}: training row {number}")
            prompt, answer = encode(context, target)
            if scored.kind == "generate_until" and end is not None:
                answer = [*answer, end]
            shown = None
            if demonstration is not None:
                # Read as the prompt is: lm-eval moves spaces at a prompt's end to the answer.
                teacher_prompt, _ = encode(self._shown(scored, rows[number], demonstration, context, target), target)
                shown = np.asarray(teacher_prompt, dtype=np.int64)
            return Example(np.asarray([*prompt, *answer], dtype=np.int64), len(prompt), shown)

        return TrainingExamples(len(rows), render)

    def _shown(self, scored: ScoredTask, row: Mapping[str, Any], template: str, context: str, target: str) -> str:
        """The prompt of a teacher that sees the right answer as well."""
        chat = self._prompting.chat_template
        if chat is None:
            return fill_teacher_prompt(template, context, target)

        def with_answer(messages: list[dict[str, str]], **settings: Any) -> str:
            last = max(i for i, message in enumerate(messages) if message["role"] == "user")
            asked = fill_teacher_prompt(template, messages[last]["content"], target)
            return chat([*messages[:last], {**messages[last], "content": asked}, *messages[last + 1 :]], **settings)

        return self._context(scored.task, row, {**self._prompting.arguments, "chat_template": with_answer})

    def _context(self, task: Any, row: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
        return task.fewshot_context(row, num_fewshot=0, gen_prefix=task.doc_to_prefix(row), **settings)

    def _asked(self, scored: ScoredTask, row: Mapping[str, Any], where: str) -> tuple[str, str]:
        """(context, right answer) of a row: the very texts of the request that lm-eval would score."""
        task, settings = scored.task, self._prompting.arguments
        context = self._context(task, row, settings)
        if scored.kind != "multiple_choice":
            delimiter = self._delimiter(task, row)
            target = task.doc_to_target(row)
            if isinstance(target, int) and task.config.doc_to_choice is not None:
                target = task.doc_to_choice(row)[target]
            return context, delimiter + str(target[0] if isinstance(target, list) else target)
        chat = settings["apply_chat_template"]
        requests = task.construct_requests(row, context, metadata=(scored.name, 0, 1), apply_chat_template=chat)
        label = _label(task, row)
        if label is None:
            raise InputError(
                f"label {task.doc_to_target(row)!r} is not one of the {len(task.doc_to_choice(row))} choices",
                where=where,
                remedy="correct the row or the task's doc_to_target",
            )
        return requests[label].args

    def _delimiter(self, task: Any, row: Mapping[str, Any]) -> str:
        """What stands between a prompt and its generated answer, as lm-eval's own examples have it."""
        begun = task.doc_to_prefix(row)
        if begun:
            return "" if begun[-1].isspace() else " "
        return "" if self._prompting.chat_template else task.config.target_delimiter

    def _load(self, data: TaskData, splits: dict[str, list[Mapping[str, Any]]]) -> ScoredTask:
        task = _make_task(data, splits)
        wanted = self._prompting.fewshot.get(data.name)
        shots = int(data.config.get("num_fewshot") or 0) if wanted is None else wanted
        if data.config["output_type"] == "loglikelihood_rolling":
            shots = 0  # there is no question that examples could stand before
        _check_examples(task, data.name, shots)
        task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        metric = next(iter(task.aggregation()))
        scored = ScoredTask(
            name=data.name,
            task=task,
            kind=str(data.config["output_type"]),
            metric=metric,
            higher_is_better=bool(task.higher_is_better()[metric]),
            chance=data.chance,
            items=len(task.eval_docs),
        )
        _build_once(scored, self._prompting.arguments)
        return scored


def _label(task: Any, row: Mapping[str, Any]) -> int | None:
    """The place of the right answer among a row's requests, as ``ConfigurableTask.process_results`` finds it."""
    choices = task.doc_to_choice(row)
    gold = task.doc_to_text(row) if task.multiple_input else task.doc_to_target(row)
    gold = gold[0] if isinstance(gold, list) and gold else gold
    if isinstance(gold, str):
        return choices.index(gold) if gold in choices else None
    return gold if isinstance(gold, int) and 0 <= gold < len(choices) else None


def _chosen(data: TaskData, split: str, items: int | None) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of every split that lm-eval gets to see; what is scored is its ``test``."""
    rows = list(data.splits.get(split) or ())
    if not rows:
        raise InputError(f"task '{data.name}' has no rows in its {split} split", remedy="choose another split")
    if items is not None and items < len(rows):
        fair = range(items) if data.shuffled else sorted(random.Random(FEWSHOT_SEED).sample(range(len(rows)), items))
        rows = [rows[i] for i in fair]
    others = {name: list(found) for name, found in data.splits.items() if found and name != "test"}
    if split == "validation":  # no scored row may be an example: lm-eval looks for them in these splits
        scored = {json.dumps(row, sort_keys=True) for row in rows}
        for name in ("fewshot", "validation"):
            kept = [row for row in others.pop(name, ()) if json.dumps(row, sort_keys=True) not in scored]
            others |= {name: kept} if kept else {}
    return {**others, "test": rows}


def _make_task(data: TaskData, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    import datasets
    from lm_eval.tasks import TaskManager

    from harness.scoring import metrics

    def custom_dataset(**_: Any) -> dict[str, datasets.Dataset]:
        return {name: datasets.Dataset.from_list([dict(row) for row in rows]) for name, rows in splits.items()}

    keys = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
    config = {key: value for key, value in data.config.items() if key not in keys}
    config |= {key: name for key, name in keys.items() if name in splits}
    config |= {"task": data.name, "custom_dataset": custom_dataset}
    _check_metrics(data)
    config |= metrics.with_source(data.config, data.name)
    with trusted(f"task '{data.name}'"):
        return TaskManager(include_defaults=False).load([config])["tasks"][data.name]


@contextmanager
def trusted(where: str) -> Iterator[None]:
    """What lm-eval raises in making or scoring a task is one message about that task, not a place in lm-eval.

    Templates, filters, metrics, aggregations and, in lm-eval's own tasks, functions each fail in a way of their own.
    """
    try:
        yield
    except (LorabenchError, MemoryError):
        raise
    except Exception as problem:
        what = f"lm-eval can't make or score this task: {type(problem).__name__}: {problem}"
        raise InputError(what, where=where, remedy="correct its YAML or its rows, or choose another task") from problem


def _check_metrics(data: TaskData) -> None:
    """lm-eval looks for a metric that it does not have on the hub, and runs what it finds there.

    An aggregation that it does not have becomes None.
    """
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY

    for number, entry in enumerate(data.config.get("metric_list") or ()):
        aggregation = entry.get("aggregation")
        if isinstance(aggregation, str) and aggregation not in AGGREGATION_REGISTRY:
            where = f"{data.name}:metric_list.{number}.aggregation"
            raise unknown_name("aggregation", aggregation, AGGREGATION_REGISTRY, where=where)
    if data.config.get("process_results") is not None:
        return  # the task's own function scores, and the metrics are names
    for number, entry in enumerate(data.config.get("metric_list") or ()):
        metric = entry["metric"]
        if isinstance(metric, str) and (metric not in METRIC_REGISTRY or entry.get("hf_evaluate")):
            raise InputError(
                f"the metric '{metric}' is not one of lm-eval's own; it would be downloaded as code",
                where=f"{data.name}:metric_list.{number}",
                remedy=f"use one of {', '.join(sorted(METRIC_REGISTRY))}",
            )


def _check_examples(task: Any, name: str, shots: int) -> None:
    """There must be rows to take ``shots`` examples from, and others than those that are scored: lm-eval takes them."""
    if not shots:
        return
    own = task.fewshot_cfg.split is not None or task.fewshot_cfg.samples is not None
    if not (own or task.has_training_docs() or task.has_validation_docs()):
        what = "the task has no rows but those that are scored to take examples from"
    elif len(task.sampler.df) < shots + (task.fewshot_cfg.split == "test"):  # not the item itself
        what = f"the task has {len(task.sampler.df)} rows to take examples from, and {shots} are wanted"
    else:
        return
    raise InputError(what, where=f"scoring.num_fewshot: {name}", remedy="lower num_fewshot for this task in the study")


def _build_once(scored: ScoredTask, settings: dict[str, Any]) -> None:
    """Build lm-eval's requests now; later evaluations reuse them with their answers wiped, and what they find is heard.

    ``evaluate`` builds requests and reads documents anew for every model otherwise, which costs more than scoring a
    small one; and it keeps samples with three hashes an item only to say what each item's metrics were.
    """
    task = scored.task
    where = f"task '{scored.name}'"
    with trusted(where):
        task.build_all_requests(rank=0, world_size=1, **settings)
    docs = list(enumerate(task.eval_docs))
    judge, filters = task.process_results, task.apply_filters

    def reuse(**_: Any) -> None:
        scored.heard.clear()
        for instance in task.instances:
            instance.resps = []
            instance.filtered_resps = {}

    def listen(doc: Any, results: list[Any]) -> dict[str, Any]:
        with trusted(where):
            metrics = judge(doc, results)
        scored.heard.append(metrics)
        return metrics

    def filtered() -> Any:
        with trusted(where):
            return filters()

    task.build_all_requests, task.process_results, task.doc_iterator = reuse, listen, lambda **_: iter(docs)
    task.apply_filters = filtered
