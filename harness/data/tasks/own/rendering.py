"""What a document of a task reads like: its question, its choices and its answer, for the checks.

Training and scoring render with lm-eval.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import re
from typing import TYPE_CHECKING, Any

from harness.data.tasks.spec import Task
from harness.errors import InputError, clipped

if TYPE_CHECKING:
    import jinja2

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


def answer_text(task: Task, doc: dict) -> str:
    """The right answer as text, so that two documents can be compared whatever the order of their choices."""
    answer = target(task, doc)
    if task.kind == "multiple_choice" and isinstance(answer, int) and 0 <= answer < len(choices(task, doc)):
        return str(choices(task, doc)[answer])
    return str(answer)


@functools.cache
def _templates() -> jinja2.Environment:
    import jinja2  # not at the top: listing tasks renders nothing, and should be quick

    # The settings of lm-eval's environment.
    return jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


@functools.lru_cache(maxsize=256)
def _template(text: str) -> jinja2.Template:
    return _templates().from_string(text)


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
        # jinja2's errors, and whatever a template's expressions raise (a division by 0, a wrong type)
        remedy = f"correct the template; fields of a document: {', '.join(doc)}"
        raise InputError(f"can't be rendered: {problem}", where=task.where(key), remedy=remedy) from problem
