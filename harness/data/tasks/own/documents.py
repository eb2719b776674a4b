"""The documents that a task's ``prepare.py`` makes of its source's rows."""

from __future__ import annotations

import traceback
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.data import paths
from harness.data.tasks.own.source import Source
from harness.data.tasks.spec import Task
from harness.errors import InputError, LorabenchError, clipped


def documents(task: Task) -> list[dict]:
    """What ``rows(source)`` of the task's ``prepare.py`` gives.

    Raises InputError, with file and line, for whatever happens in it.
    """
    return _run(task, "rows", lambda rows: _checked(rows(Source(task))))


def documents_of(task: Task, sentences: Sequence[str], where: Callable[[int], str]) -> list[dict]:
    """What ``fields(sentence)`` of the task's ``prepare.py`` makes of each sentence of the benchmark's own files.

    Raises InputError where one is not built as it should be; ``where`` names the file and the row of each by its place.
    """

    def read(fields: Callable[[str], dict]) -> list[dict]:
        docs = []
        for place, sentence in enumerate(sentences):
            try:
                docs.append(fields(sentence))
            except ValueError as problem:
                what = f"the sentence {clipped(repr(sentence), 200)} is not built as those of this task: {problem}"
                raise InputError(what, where=where(place), remedy="name the benchmark's own files") from problem
        return _checked(docs)

    return _run(task, "fields", read)


def _run(task: Task, name: str, use: Callable[[Any], list[dict]]) -> list[dict]:
    """What ``use`` makes of the function of this name in the task's ``prepare.py``."""
    path = task.folder / "prepare.py"
    module = types.ModuleType(f"lorabench_task_{task.name}")
    try:
        # Not imported by name: the file is no part of a package, and no __pycache__ may appear in the tasks folder.
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
        return use(getattr(module, name))
    except LorabenchError:
        raise
    except (Exception, SystemExit) as problem:
        line = _line(problem, path, getattr(module, name, None))
        where = f"{paths.shown(path)}:{line}" if line else paths.shown(path)
        given = "source" if name == "rows" else "sentence"
        what = f"{name}({given}) failed: {type(problem).__name__}: {problem}"
        raise InputError(what, where=where, remedy="correct prepare.py; see tasks/README.md, step 2") from problem


def _line(problem: BaseException, path: Path, rows: object) -> int | None:
    """The line of ``path`` that a person should look at: where it was raised, else where ``rows`` begins."""
    if isinstance(problem, SyntaxError) and problem.filename == str(path):
        return problem.lineno
    frames = traceback.extract_tb(problem.__traceback__)
    raised = [frame.lineno for frame in frames if frame.filename == str(path)]
    return raised[-1] if raised else getattr(getattr(rows, "__code__", None), "co_firstlineno", None)


def _checked(given: object) -> list[dict]:
    """The documents, which must be mappings with texts as keys: JSON would make texts of others without a word."""
    if isinstance(given, str | bytes | dict) or not isinstance(given, Iterable):
        raise TypeError(f"it gives a {type(given).__name__}, not documents one after the other")
    docs = []
    for number, doc in enumerate(given, start=1):
        if not isinstance(doc, dict) or not all(isinstance(key, str) for key in doc):
            raise TypeError(f"document {number} is {clipped(repr(doc), 200)}, not a mapping of names to values")
        docs.append(doc)
    return docs
