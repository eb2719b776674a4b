"""Building a task's splits: source rows -> documents -> de-duplicated, shuffled, checked splits in the cache."""

from __future__ import annotations

import ast
import contextlib
import functools
import random
import re
import traceback
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2

from harness.data import paths, stored
from harness.data.sources import Source
from harness.data.tasks import SPLITS, Task
from harness.errors import InputError, LorabenchError, clipped

# The same settings as lm-eval's own environment; only used for checks, training and scoring render with lm-eval.
_TEMPLATES = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)

_PLACE = re.compile("0|[1-9][0-9]{0,8}")  #: an index as a template renders it


def question(task: Task, doc: dict) -> str:
    """The text that makes a document itself: the rendered prompt, or the scored text of a rolling task."""
    key = "doc_to_target" if task.kind == "loglikelihood_rolling" else "doc_to_text"
    text = _render(task, key, doc)
    if not isinstance(text, str):
        what = f"{clipped(repr(text), 200)} is no text"
        raise InputError(what, where=task.where(key), remedy="give texts in prepare.py, or write a template")
    return text


def choices(task: Task, doc: dict) -> list[str]:
    """The answers of a multiple-choice document."""
    options = _render(task, "doc_to_choice", doc)
    if isinstance(options, str):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            options = ast.literal_eval(options)  # else it is refused with everything else that is no list
    if not isinstance(options, list | tuple):
        what = f"{clipped(repr(options), 200)} is no list of choices"
        remedy = "name a field that holds a list, or write a template that renders to one, such as ['no', 'yes']"
        raise InputError(what, where=task.where("doc_to_choice"), remedy=remedy)
    return list(options)


def target(task: Task, doc: dict) -> int | str:
    """The right answer: an index into ``choices``, or the text of a generation task."""
    answer = _render(task, "doc_to_target", doc)
    digits = task.kind == "multiple_choice" and isinstance(answer, str) and _PLACE.fullmatch(answer)
    return int(answer) if digits else answer


@functools.lru_cache(maxsize=256)
def _template(text: str) -> jinja2.Template:
    return _TEMPLATES.from_string(text)


def _render(task: Task, key: str, doc: dict) -> Any:
    """A ``doc_to_*`` entry for one document: a literal list, the name of a field, or a template, as in lm-eval."""
    entry = task.config.get(key)
    if isinstance(entry, list | int):
        return entry
    if not isinstance(entry, str):
        raise InputError("is missing", where=task.where(key), remedy=f"write '{key}: …' as lm-eval's task guide says")
    if entry in doc:
        return doc[entry]
    try:
        return _template(entry).render(**doc)
    except Exception as problem:
        # jinja2's own errors, and whatever a template's expressions raise (a division by 0, a wrong type)
        remedy = f"correct the template; fields of a document: {', '.join(doc)}"
        raise InputError(f"can't be rendered: {problem}", where=task.where(key), remedy=remedy) from problem


def build(task: Task) -> dict:
    """Build the splits of one of the project's tasks, check them, put them into the cache, return the manifest."""
    splits = draw(task, documents(task))
    check(task, splits)
    return stored.write(task, splits)


def documents(task: Task) -> list[dict]:
    """What ``rows(source)`` of the task's ``prepare.py`` gives.

    Raises InputError, with file and line, for whatever happens in it.
    """
    path = task.folder / "prepare.py"
    module = types.ModuleType(f"lorabench_task_{task.name}")
    try:
        # Not imported by name: the file is no part of a package, and no __pycache__ may appear in the tasks folder.
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
        return _checked(module.rows(Source(task)))
    except LorabenchError:
        raise
    except (Exception, SystemExit) as problem:
        line = _line(problem, path, getattr(module, "rows", None))
        where = f"{paths.shown(path)}:{line}" if line else paths.shown(path)
        what = f"rows(source) failed: {type(problem).__name__}: {problem}"
        raise InputError(what, where=where, remedy="correct prepare.py; see tasks/README.md, step 2") from problem


def _line(problem: BaseException, path: Path, rows: object) -> int | None:
    """The line of ``path`` that a person should look at: where it was raised, else where ``rows`` begins."""
    if isinstance(problem, SyntaxError) and problem.filename == str(path):
        return problem.lineno
    frames = traceback.extract_tb(problem.__traceback__)
    raised = [frame.lineno for frame in frames if frame.filename == str(path)]
    return raised[-1] if raised else getattr(getattr(rows, "__code__", None), "co_firstlineno", None)


def _checked(found: object) -> list[dict]:
    """The documents, which must be mappings with texts as keys: JSON would make texts of others without a word."""
    if isinstance(found, str | bytes | dict) or not isinstance(found, Iterable):
        raise TypeError(f"it gives a {type(found).__name__}, not documents one after the other")
    docs = []
    for number, doc in enumerate(found, start=1):
        if not isinstance(doc, dict) or not all(isinstance(key, str) for key in doc):
            raise TypeError(f"document {number} is {clipped(repr(doc), 200)}, not a mapping of names to values")
        docs.append(doc)
    return docs


def draw(task: Task, docs: list[dict]) -> dict[str, list[dict]]:
    """De-duplicate on the rendered question, shuffle with the task's seed, cut test, validation and train.

    A question with two different answers is dropped altogether.  Where the task names a ``group`` field, whole
    groups are dealt out, so that no test item shares, say, its story with a training item.
    """
    by_question: dict[str, list[dict]] = {}
    for doc in docs:
        by_question.setdefault(" ".join(question(task, doc).split()), []).append(doc)
    kept = [same[0] for same in by_question.values() if len({_answer(task, doc) for doc in same}) == 1]
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
    return {split: splits[split] for split in SPLITS}


def _group(task: Task, doc: dict) -> str:
    if task.group not in doc:
        where, remedy = task.where("metadata.group"), f"fields of a document: {', '.join(doc)}"
        raise InputError(f"the documents have no field '{task.group}'", where=where, remedy=remedy)
    return str(doc[task.group])


def _answer(task: Task, doc: dict) -> str:
    """The right answer as text, so that two documents can be compared whatever the order of their choices."""
    answer = target(task, doc)
    if task.kind == "multiple_choice" and isinstance(answer, int) and 0 <= answer < len(choices(task, doc)):
        return str(choices(task, doc)[answer])
    return str(answer)


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
