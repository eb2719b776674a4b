"""Splits of a task from the benchmark's own files: train from ``train.json``, test from ``test.json``.

Validation is held out of train: a tenth of it, at most 200 rows, drawn with the task's ``split_seed``.  Where one of
the two files is missing, the other is divided: a quarter of its rows, at most 500, are the test.  Test items are all
that the file has; of train, rows whose text is there before, or in the test, or there with two answers, are left out,
so that no text is in two splits.  Every split is shuffled, so that its first n are a fair sample.  Rows of which a
split can't be made that is worth anything (an empty one, one label only) are refused.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from harness.data.sources import cl_benchmark
from harness.data.sources.cl_benchmark import BenchmarkFiles, Rows
from harness.data.tasks import cache
from harness.data.tasks.own import splits
from harness.data.tasks.own.documents import documents_of
from harness.data.tasks.own.rendering import answer_text, question
from harness.data.tasks.spec import SPLITS, Task
from harness.errors import InputError

#: Rows held out for validation, and cut off for the test where there is no file of them: at most, and one in how many.
VALIDATION, VALIDATION_SHARE = 200, 10
TEST, TEST_SHARE = 500, 4


@dataclass(frozen=True)
class Drawn:
    """The splits of a task, and in words what was made of its files."""

    splits: dict[str, list[dict]]
    notes: tuple[str, ...]


def build(task: Task) -> dict:
    """Build the splits of a task from its files, check them, put them into the cache, return the manifest."""
    drawn = draw(task)
    splits.check(replace(task, splits={split: len(docs) for split, docs in drawn.splits.items()}), drawn.splits)
    return cache.write(task, drawn.splits, drawn.notes)


def draw(task: Task) -> Drawn:
    """Read the task's files and divide their rows.  Raises InputError, with file and row."""
    assert task.files is not None, "only tasks with files are built here"
    parts = cl_benchmark.read(task.files)
    docs = {name: _documents(task, rows) for name, rows in parts.items()}
    notes = [_of_file(rows) for rows in parts.values()]
    chance = random.Random(task.split_seed)
    for each in docs.values():
        chance.shuffle(each)
    if len(docs) == 2:
        train, test = _distinct(task, docs["train"], docs["test"]), docs["test"]
    else:
        ((only, all_docs),) = docs.items()
        whole = _distinct(task, all_docs, [])
        test, train = _part(task, whole, min(TEST, len(whole) // TEST_SHARE), chance)
        docs["train"] = all_docs[len(test) :]  # as many: what is left out is counted below
        other = "test" if only == "train" else "train"
        notes.append(f"no {other}.json: {only}.json is divided, {len(test)} rows for the test")
    if left_out := len(docs["train"]) - len(train):
        notes.append(f"{left_out} training rows left out, whose text stands elsewhere too")
    validation, train = _part(task, train, min(VALIDATION, len(train) // VALIDATION_SHARE), chance)
    notes.append(f"{len(validation)} training rows held out for validation")
    drawn = {"train": train, "validation": validation, "test": test}
    _check(task.files, drawn, notes)
    return Drawn({split: drawn[split] for split in SPLITS}, tuple(notes))


def _check(files: BenchmarkFiles, drawn: dict[str, list[dict]], notes: list[str]) -> None:
    """Raise InputError for splits that nothing can be learnt from, tuned on or told by."""
    for split, docs in drawn.items():
        labels = {doc["label"] for doc in docs}
        # The validation split of a small file may well have one label by chance; train and test may not.
        if len(labels) >= (1 if split == "validation" else 2):
            continue
        left = f"only rows with the label '{files.labels[labels.pop()]}' are" if labels else "no row is"
        raise InputError(
            f"{left} left for the {split} split: {'; '.join(notes)}",
            where=str(files.folder),
            remedy=cl_benchmark.REMEDY,
        )


def _of_file(rows: Rows) -> str:
    without = f", {rows.without} of them left out without a label" if rows.without else ""
    return f"{rows.file.name} with {len(rows.rows) + rows.without} rows{without}"


def _documents(task: Task, rows: Rows) -> list[dict]:
    docs = documents_of(
        task, [sentence for sentence, _ in rows.rows], lambda place: f"{rows.file}: row {rows.places[place]}"
    )
    return [{**doc, "label": label} for doc, (_, label) in zip(docs, rows.rows, strict=True)]


def _key(task: Task, doc: dict) -> str:
    return " ".join(question(task, doc).split())


def _distinct(task: Task, docs: list[dict], others: list[dict]) -> list[dict]:
    """One of every text, without those that have two answers, or share text or group with ``others``."""
    taken = {_key(task, doc) for doc in others}
    groups = {doc[task.group] for doc in others} if task.group else set()
    same: dict[str, list[dict]] = {}
    for doc in docs:
        same.setdefault(_key(task, doc), []).append(doc)
    return [
        each[0]
        for key, each in same.items()
        if key not in taken
        and len({answer_text(task, doc) for doc in each}) == 1
        and (task.group is None or each[0][task.group] not in groups)
    ]


def _part(task: Task, docs: list[dict], count: int, chance: random.Random) -> tuple[list[dict], list[dict]]:
    """(about ``count`` of the documents, the others): whole groups, where the task has groups, and shuffled."""
    if task.group is None:
        return docs[:count], docs[count:]
    groups: dict[str, list[dict]] = {}
    for doc in docs:
        groups.setdefault(str(doc[task.group]), []).append(doc)
    part: list[dict] = []
    rest: list[dict] = []
    for group in groups.values():
        (part if len(part) < count else rest).extend(group)
    for each in (part, rest):  # so that any first n items are a fair sample, not n questions on few stories
        chance.shuffle(each)
    return part, rest
