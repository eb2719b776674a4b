"""What lm-eval says of answers to multiple-choice items, asked once for each outcome that it tells apart.

Its judgement of an item was nine tenths of what the host did in scoring.  But whether an item is right depends on which
of its answers is the likeliest, not on how likely it is: K trials and all their checkpoints come to a few outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

#: Metrics of lm-eval that depend on the likeliest answers, and on which answers are greedy, and on nothing else.
BY_OUTCOME = {"acc", "acc_norm", "acc_bytes", "exact_match", "f1", "mcc"}

#: (an item's number, its answers as lm-eval has them from a model) -> its metrics
Judge = Callable[[int, list[tuple[float, bool]]], dict[str, Any]]


class Outcomes:
    """The judgements of one task's items, as ``judge`` has made them."""

    def __init__(self, task: Any, judge: Judge, choices: Callable[[int], Sequence[str]]) -> None:
        """``choices`` are an item's answers.  ``task`` is lm-eval's: where its metrics ask more, nothing is kept."""
        from lm_eval.api.task import ConfigurableTask

        self._judge, self._choices, self._metrics = judge, choices, set(task.aggregation())
        self._told_apart = type(task).process_results is ConfigurableTask.process_results and (
            self._metrics <= BY_OUTCOME
        )
        self._known: dict[tuple, dict[str, Any]] = {}
        self._sizes: dict[int, np.ndarray] = {}

    def of(self, numbers: Sequence[int], logprob: np.ndarray, greedy: np.ndarray) -> list[list[dict[str, Any] | None]]:
        """The metrics of these items [D] for every trial, from log-probabilities [K, D, n] and which are greedy.

        None where one is not finite: the trial is broken.
        """
        seen = self._outcomes(numbers, logprob, greedy) if self._told_apart else None
        finite = np.all(np.isfinite(logprob), axis=2)
        judged: list[list[dict[str, Any] | None]] = []
        for place, number in enumerate(numbers):
            metrics: list[dict[str, Any] | None] = [None] * len(logprob)
            for trial in np.flatnonzero(finite[:, place]).tolist():
                outcome = None if seen is None else (number, *seen[place][trial])
                known = None if outcome is None else self._known.get(outcome)
                if known is None:
                    answers = zip(logprob[trial, place].tolist(), greedy[trial, place].tolist(), strict=True)
                    known = self._judge(number, list(answers))
                    if outcome is not None:
                        self._known[outcome] = known
                metrics[trial] = known
            judged.append(metrics)
        return judged

    def _outcomes(
        self, numbers: Sequence[int], logprob: np.ndarray, greedy: np.ndarray
    ) -> list[list[list[int]]] | None:
        """Of every item and trial what lm-eval tells apart; None where answers are not one a choice."""
        likeliest = [logprob.argmax(2)]
        if self._metrics & {"acc_norm", "acc_bytes"}:
            sizes = [self._size(number) for number in numbers]
            if any(size.shape != (2, logprob.shape[2]) for size in sizes):
                return None
            likeliest += [(logprob / size).argmax(2) for size in np.stack(sizes, 1)]
        columns = [*likeliest, *(np.moveaxis(greedy, 2, 0) if "exact_match" in self._metrics else ())]
        return np.stack(columns, 2).transpose(1, 0, 2).tolist()

    def _size(self, number: int) -> np.ndarray:
        """Characters and bytes of every answer, [2, n]."""
        if number not in self._sizes:
            choices = self._choices(number)
            lengths = [[float(len(choice)), float(len(choice.encode()))] for choice in choices]
            self._sizes[number] = np.asarray(lengths).reshape(-1, 2).T
        return self._sizes[number]
