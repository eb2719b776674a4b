"""Training examples: the training rows of a task as lm-eval would ask them, with the right answer behind each.

The object that asks the test items renders the examples too, so the two can't drift apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from harness.engine.batches import Example
from harness.errors import InputError
from harness.method.prompts import fill_teacher_prompt
from harness.scoring.encoding import Encoder
from harness.scoring.lm_eval_task import Prompting, ScoredTask
from harness.scoring.written import place_of_answer


class TrainingExamples(Sequence[Example]):
    """Rows rendered when they are first asked for: a trial sees a few hundred of what may be hundreds of thousands."""

    def __init__(self, count: int, render: Callable[[int], Example], ahead: Callable[[list[int]], None]) -> None:
        """``ahead`` is told which rows will be rendered next."""
        self._count, self._render, self._ahead = count, cache(render), ahead
        self._told: set[int] = set()

    def choose(self, numbers: Iterable[int]) -> list[Example]:
        """The examples of these rows, what is new among them encoded together."""
        chosen = [*map(int, numbers)]
        if new := [number for number in dict.fromkeys(chosen) if number not in self._told]:
            self._ahead(new)
            self._told |= {*new}
        return [self[number] for number in chosen]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._render(int(index))


def training_examples(
    scored: ScoredTask, prompting: Prompting, encoder: Encoder, demonstration: str | None = None
) -> TrainingExamples:
    """The training rows of a task, without shots.

    A generated answer is followed by the encoder's ``end``.  ``demonstration`` is the template of a teacher's prompt
    that shows the answer, or None.  A row without a right answer is an InputError when it is rendered.
    """
    rows = scored.task.training_docs()
    asked: dict[int, tuple[str, str]] = {}  # of what is encoded ahead

    def ask(number: int) -> tuple[str, str]:
        return right_answer(scored, prompting, rows[number], f"{scored.name}: training row {number}")

    def ahead(numbers: list[int]) -> None:
        asked.update((number, ask(number)) for number in numbers)
        encoder.ahead(asked[number] for number in numbers)

    def render(number: int) -> Example:
        context, target = asked.pop(number, None) or ask(number)
        prompt, answer = encoder.pair(context, target)
        if scored.kind == "generate_until" and encoder.end is not None:
            answer = [*answer, encoder.end]
        shown = None
        if demonstration is not None:
            # Read as the prompt is: lm-eval moves spaces at a prompt's end to the answer.
            taught = _teacher_prompt(scored.task, prompting, rows[number], demonstration, context, target)
            shown = np.asarray(encoder.pair(taught, target)[0], dtype=np.int64)
        return Example(np.asarray([*prompt, *answer], dtype=np.int64), len(prompt), shown)

    return TrainingExamples(len(rows), render, ahead)


def right_answer(scored: ScoredTask, prompting: Prompting, row: Mapping[str, Any], where: str) -> tuple[str, str]:
    """(context, right answer) of a row: the very texts of the request that lm-eval would score.

    Raises InputError, with ``where``, for a label that is not among the choices.
    """
    task, settings = scored.task, prompting.arguments
    context = _context(task, row, settings)
    if scored.kind != "multiple_choice":
        delimiter = _delimiter(task, prompting, row)
        target = task.doc_to_target(row)
        if isinstance(target, int) and task.config.doc_to_choice is not None:
            target = task.doc_to_choice(row)[target]
        return context, delimiter + str(target[0] if isinstance(target, list) else target)
    chat = settings["apply_chat_template"]
    requests = task.construct_requests(row, context, metadata=(scored.name, 0, 1), apply_chat_template=chat)
    label = place_of_answer(task, row)
    if label is None:
        raise InputError(
            f"label {task.doc_to_target(row)!r} is not one of the {len(task.doc_to_choice(row))} choices",
            where=where,
            remedy="correct the row or the task's doc_to_target",
        )
    return requests[label].args


def majority(scored: ScoredTask) -> float | None:
    """The share of a task's scored items that have the most frequent right answer; None where there are no answers.

    For choices the place of the right one, for generated answers its text.
    """
    if scored.kind not in ("multiple_choice", "generate_until"):
        return None
    docs = scored.task.eval_docs
    if scored.kind == "multiple_choice":
        answers = [str(place_of_answer(scored.task, doc)) for doc in docs]
    else:
        answers = [str(scored.task.doc_to_target(doc)) for doc in docs]
    return max(Counter(answers).values()) / len(answers)


def _context(task: Any, row: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    return task.fewshot_context(row, num_fewshot=0, gen_prefix=task.doc_to_prefix(row), **settings)


def _delimiter(task: Any, prompting: Prompting, row: Mapping[str, Any]) -> str:
    """What stands between a prompt and its generated answer, as in lm-eval's examples."""
    begun = task.doc_to_prefix(row)
    if begun:
        return "" if begun[-1].isspace() else " "
    return "" if prompting.chat_template else task.config.target_delimiter


def _teacher_prompt(
    task: Any, prompting: Prompting, row: Mapping[str, Any], template: str, context: str, target: str
) -> str:
    """The prompt of a teacher that sees the right answer as well; in a chat the template fills the user's turn."""
    chat = prompting.chat_template
    if chat is None:
        return fill_teacher_prompt(template, context, target)

    def with_answer(messages: list[dict[str, str]], **settings: Any) -> str:
        last = max(i for i, message in enumerate(messages) if message["role"] == "user")
        asked = fill_teacher_prompt(template, messages[last]["content"], target)
        return chat([*messages[:last], {**messages[last], "content": asked}, *messages[last + 1 :]], **settings)

    return _context(task, row, {**prompting.arguments, "chat_template": with_answer})
