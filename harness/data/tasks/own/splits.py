"""A task's splits: its documents de-duplicated, shuffled, divided, checked, and put into the cache."""

from __future__ import annotations

import random

from harness.data.tasks import cache
from harness.data.tasks.own.documents import documents
from harness.data.tasks.own.rendering import answer_text, choices, question, target
from harness.data.tasks.spec import SPLITS, Task
from harness.errors import InputError


def build(task: Task) -> dict:
    """Build the splits of a task, check them, put them into the cache, return the manifest."""
    splits = draw(task, documents(task))
    check(task, splits)
    return cache.write(task, splits)


def draw(task: Task, docs: list[dict]) -> dict[str, list[dict]]:
    """De-duplicate on the rendered question, shuffle with the task's seed, cut test, validation and train.

    A question with two different answers is dropped altogether.  Where the task names a ``group`` field, whole
    groups are dealt out, so that no test item shares, say, its story with a training item.
    """
    return deal(task, docs)[0]


def deal(task: Task, docs: list[dict]) -> tuple[dict[str, list[dict]], list[dict]]:
    """(the splits, the documents that are in none of them and share no group with any)."""
    by_question: dict[str, list[dict]] = {}
    for doc in docs:
        by_question.setdefault(" ".join(question(task, doc).split()), []).append(doc)
    kept = [same[0] for same in by_question.values() if len({answer_text(task, doc) for doc in same}) == 1]
    chance = random.Random(task.split_seed)
    chance.shuffle(kept)
    groups: dict[str, list[dict]] = {}
    for number, doc in enumerate(kept):
        groups.setdefault(_group(task, doc) if task.group else str(number), []).append(doc)
    queue, splits = list(groups.values()), {}
    for split in ("test", "validation", "train"):
        drawn: list[dict] = []
        while queue and len(drawn) < task.splits[split]:
            drawn += queue.pop(0)
        if task.group:
            chance.shuffle(drawn)  # so that any first n items are a fair sample, not n questions on few stories
        splits[split] = drawn[: task.splits[split]]
    return {split: splits[split] for split in SPLITS}, [doc for group in queue for doc in group]


def _group(task: Task, doc: dict) -> str:
    if task.group not in doc:
        where, remedy = task.where("metadata.group"), f"fields of a document: {', '.join(doc)}"
        raise InputError(f"the documents have no field '{task.group}'", where=where, remedy=remedy)
    return str(doc[task.group])


def check(task: Task, splits: dict[str, list[dict]]) -> None:
    """Raise InputError, naming file and key, for splits that break the task's declaration."""
    seen: dict[str, str] = {}
    text_key = "doc_to_target" if task.kind == "loglikelihood_rolling" else "doc_to_text"
    for split, docs in splits.items():
        if len(docs) != task.splits[split]:
            have = f"only {len(docs)} are left for it, of {sum(map(len, splits.values()))} distinct ones"
            where, remedy = task.where(f"metadata.splits.{split}"), "declare smaller splits, or give more rows"
            raise InputError(f"{task.splits[split]} items are declared but {have}", where=where, remedy=remedy)
        for number, doc in enumerate(docs):
            asked = question(task, doc)
            text = " ".join(asked.split())
            if not text:
                what = f"renders to nothing for {split} item {number}: {doc}"
                raise InputError(what, where=task.where(text_key), remedy="leave such rows out in prepare.py")
            if task.kind == "multiple_choice" and asked.isdigit() and task.config["doc_to_text"] not in doc:
                what = f"renders to {asked} for {split} item {number}, which lm-eval takes for the number of a choice"
                raise InputError(what, where=task.where(text_key), remedy="write more, as in 'Number: …'")
            for shared in [text, f"group {_group(task, doc)}"] if task.group else [text]:
                if seen.setdefault(shared, split) != split:
                    what = f"splits {seen[shared]} and {split} have an item in common: {shared[:80]!r}"
                    where, remedy = task.where("metadata.splits"), "every item must be in one split only"
                    raise InputError(what, where=where, remedy=remedy)
            _check_answer(task, doc, f"{split} item {number}")


def _check_answer(task: Task, doc: dict, item: str) -> None:
    """Labels in range, choices distinct and not empty, texts not empty."""
    answer = target(task, doc)
    if task.kind == "multiple_choice":
        options = choices(task, doc)
        if len(options) < 2 or not all(isinstance(o, str) and o for o in options) or len(set(options)) < len(options):
            remedy = "give at least two different, non-empty texts"
            raise InputError(f"{item} has the choices {options}", where=task.where("doc_to_choice"), remedy=remedy)
        if type(answer) is not int or not 0 <= answer < len(options):
            remedy = f"must be an index from 0 to {len(options) - 1} into the choices"
            raise InputError(f"{item} has the label {answer!r}", where=task.where("doc_to_target"), remedy=remedy)
    elif not isinstance(answer, str) or not answer.strip():
        remedy = "must be a non-empty text"
        raise InputError(f"{item} has the answer {answer!r}", where=task.where("doc_to_target"), remedy=remedy)
