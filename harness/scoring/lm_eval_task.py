"""One task as lm-eval's object: made from rows in memory, checked, its requests built once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np

from harness.errors import InputError, LorabenchError, unknown_name
from harness.scoring.outcomes import Outcomes
from harness.scoring.written import written

# lm-eval's tasks here are local files; nothing may wait for a hub (measured: a hang or a five-second retry each).
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval draws a bar for every task

ChatTemplate = Callable[..., str]  #: ``PackedLM.apply_chat_template``: messages -> the prompt's text

#: lm-eval's seed for few-shot examples, which also draws the items of a task whose rows are not shuffled.
FEWSHOT_SEED = 1234

#: Judgements of written answers that are kept of a task: some 0.5 KB each of short ones, 5 KB of long ones.
MOST_JUDGEMENTS = 20_000


@dataclass(frozen=True)
class TaskData:
    """A task in memory: lm-eval's configuration and the rows of each split."""

    name: str
    config: Mapping[str, Any]
    splits: Mapping[str, Sequence[Mapping[str, Any]]]  # train, validation, test, fewshot
    chance: float | None
    shuffled: bool = True  #: whether the first n rows are a fair sample
    generated: bool = False  #: whether its choices are listed in the prompt, and the answer is written


@dataclass(frozen=True)
class Prompting:
    """How prompts are put: worked examples before the question, by task, and the model's chat template.

    A task without a count has as many examples as its configuration says, or 0.  Training examples never have any.
    Without a chat template prompts are plain text.
    """

    fewshot: Mapping[str, int | None] = field(default_factory=dict)
    chat_template: ChatTemplate | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of lm-eval's ``build_all_requests``."""
        chat = self.chat_template is not None
        return {"apply_chat_template": chat, "fewshot_as_multiturn": chat, "chat_template": self.chat_template}

    def shots(self, data: TaskData) -> int:
        """Worked examples before each question of a task."""
        if data.config["output_type"] == "loglikelihood_rolling":
            return 0  # there is no question that examples could stand before
        wanted = self.fewshot.get(data.name)
        return int(data.config.get("num_fewshot") or 0) if wanted is None else wanted


@dataclass
class ScoredTask:
    """A task of a suite: lm-eval's object with its requests built once, and how it is scored."""

    name: str
    task: Any  # lm_eval.api.task.ConfigurableTask
    kind: str
    metric: str
    higher_is_better: bool
    chance: float | None
    items: int
    item_metrics: list[dict[str, Any]] = field(default_factory=list)  #: of each item as it was judged last
    documents: list[list[Any]] = field(default_factory=list)  #: the requests (lm-eval's Instance) of each item
    judge: Callable[[int, list[Any]], dict[str, Any]] = lambda number, results: {}
    outcomes: Outcomes | None = None  #: the same of all trials, where an item is judged :attr:`by_document`
    #: what items have come to whose results were known before all others were: by the item's number, of every trial
    ahead: dict[int, list[dict[str, Any] | None]] = field(default_factory=dict)

    @property
    def by_document(self) -> bool:
        """Whether an item is judged by its own results alone, as they are: without a filter, a function or a draw."""
        config = self.task.config
        return self.kind == "multiple_choice" and config.process_results is None and config.filter_list is None

    def judge_ahead(self, numbers: Sequence[int], logprob: np.ndarray, greedy: np.ndarray) -> None:
        """Judge items of all trials: log-probabilities [K, D, n], and whether each is greedy."""
        assert self.outcomes is not None, "of what is judged by document"
        self.ahead.update(zip(numbers, self.outcomes.of(numbers, logprob, greedy), strict=True))

    def judge_all(self, trial: int, answer: Callable[[list[Any]], list[Any]]) -> None:
        """Judge every item of a trial by what ``answer`` says to its requests: lm-eval's judgement, without its loop.

        That loop takes 13 ms a trial for 2,000 requests, which an H200 answers in 45.
        """
        self.item_metrics.clear()
        for number, requests in enumerate(self.documents):
            known = self.ahead[number][trial] if number in self.ahead else None
            self.item_metrics.append(self.judge(number, answer(requests)) if known is None else known)

    @property
    def aggregate(self) -> Callable[[Sequence[Any]], float]:
        """lm-eval's function from the values of all items to the score."""
        return self.task.aggregation()[self.metric]

    def values(self) -> list[Any]:
        """The score's value on each item; a task with several filters is scored by its first."""
        return [metrics[self.metric] for metrics in self.item_metrics[: self.items]]


def make_scored_task(
    data: TaskData, splits: Mapping[str, Sequence[Mapping[str, Any]]], prompting: Prompting
) -> ScoredTask:
    """lm-eval's object for a task that may see these ``splits``; what is scored is its ``test``.

    Raises InputError for what lm-eval can't make or score, and for too few rows to take examples from.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    _compile_templates_once()
    if data.generated:
        choices = _make_task(data, splits)
        with trusted(f"task '{data.name}'"):
            data = replace(data, config=written(data.config, choices, data.name), chance=0.0)
    task = _make_task(data, splits)
    shots = prompting.shots(data)
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
    _build_once(scored, prompting.arguments)
    return scored


@cache
def _compile_templates_once() -> None:
    """lm-eval compiles a task's template anew for every row, which is half of what an example costs."""
    from lm_eval.utils import env

    setattr(env, "from_string", lru_cache(maxsize=1024)(env.from_string))  # noqa: B010 - a method to pyright


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

    Templates, filters, metrics, aggregations and, in lm-eval's tasks, functions all fail in different ways.
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
        return  # the task's function scores, and the metrics are names
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
    has_examples = task.fewshot_cfg.split is not None or task.fewshot_cfg.samples is not None
    if not (has_examples or task.has_training_docs() or task.has_validation_docs()):
        what = "the task has no rows but those that are scored to take examples from"
    elif len(task.sampler.df) < shots + (task.fewshot_cfg.split == "test"):  # not the item itself
        what = f"the task has {len(task.sampler.df)} rows to take examples from, and {shots} are wanted"
    else:
        return
    raise InputError(what, where=f"scoring.num_fewshot: {name}", remedy="lower num_fewshot for this task in the study")


def _build_once(scored: ScoredTask, settings: dict[str, Any]) -> None:
    """Build lm-eval's requests now; later evaluations reuse them with their answers wiped, and what they find is kept.

    ``evaluate`` builds requests and reads documents anew for every model otherwise, which costs more than scoring a
    small one; and it keeps samples with three hashes an item only to say what each item's metrics were.
    """
    task = scored.task
    where = f"task '{scored.name}'"
    with trusted(where):
        task.build_all_requests(rank=0, world_size=1, **settings)
    docs = list(enumerate(task.eval_docs))
    scored.documents = [[] for _ in docs]
    for instance in sorted(task.instances, key=lambda instance: (instance.doc_id, instance.idx)):
        scored.documents[instance.doc_id].append(instance)
    for name in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        setattr(task, name, _asked_once(getattr(task, name), [doc for _, doc in docs]))
    for name in ("count_words", "count_bytes", "dump_config"):  # of the same documents and settings at every checkpoint
        setattr(task, name, cache(getattr(task, name)))
    judge, filters = _judged_once(task, [doc for _, doc in docs]), task.apply_filters

    def judged(number: int, results: list[Any]) -> dict[str, Any]:
        with trusted(where):
            return judge(docs[number][1], results)

    def choices(number: int) -> Sequence[str]:
        with trusted(where):
            return task.doc_to_choice(docs[number][1])

    def reuse(**_: Any) -> None:
        scored.item_metrics.clear()
        for instance in task.instances:
            instance.resps = []
            instance.filtered_resps = {}

    def keep(doc: Any, results: list[Any]) -> dict[str, Any]:
        with trusted(where):
            metrics = judge(doc, results)
        scored.item_metrics.append(metrics)
        return metrics

    def filtered() -> Any:
        with trusted(where):
            return filters()

    task.build_all_requests, task.process_results, task.doc_iterator = reuse, keep, lambda **_: iter(docs)
    task.apply_filters = filtered
    scored.judge = judged
    if scored.by_document:
        scored.outcomes = Outcomes(task, judged, choices)


def _judged_once(task: Any, docs: Sequence[Any]) -> Callable[[Any, list[Any]], dict[str, Any]]:
    """lm-eval's judgement of a document by its results; of written ones it is kept, as greedy answers come again.

    Half of what the host takes for 300 dates.  Functions of a task's own may draw, and are asked every time.
    """
    judge, config = task.process_results, task.config
    by_name = all(isinstance(entry["metric"], str) for entry in config.metric_list or ())
    if config.output_type != "generate_until" or config.process_results is not None or not by_name:
        return judge
    numbers = {id(doc): number for number, doc in enumerate(docs)}

    @lru_cache(maxsize=MOST_JUDGEMENTS)
    def known(number: int, texts: tuple[str, ...]) -> dict[str, Any]:
        return judge(docs[number], list(texts))

    def judged(doc: Any, results: list[Any]) -> dict[str, Any]:
        number, texts = numbers.get(id(doc)), all(isinstance(result, str) for result in results)
        return judge(doc, results) if number is None or not texts else known(number, tuple(results))

    return judged


def _asked_once(ask: Callable[..., Any], docs: Sequence[Any]) -> Callable[..., Any]:
    """What lm-eval reads off a document, kept for each of these: a template is compiled anew at every reading.

    That is half the time of judging a trial where targets are templates, and the answer is the same for every trial.
    """
    known, answers = {id(doc) for doc in docs}, {}

    def answered(doc: Any, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or id(doc) not in known:
            return ask(doc, *args, **kwargs)
        if id(doc) not in answers:
            answers[id(doc)] = ask(doc)
        return copy(answers[id(doc)])

    return answered
