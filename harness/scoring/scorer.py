"""Scores of K trials on lm-eval's tasks, with lm-eval's filters and metrics, and nothing else changed by it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from lm_eval.api.metrics import mean, mean_stderr
from lm_eval.evaluator import evaluate
from torch import Tensor

from harness.analysis.statistics import jackknife_error
from harness.engine.adapters.layout import DenseLayout, Layout
from harness.engine.model.packed import PackedModel
from harness.scoring.layouts import Documents
from harness.scoring.lm import PackedLM
from harness.scoring.lm_eval_task import ScoredTask, trusted
from harness.scoring.suite import Suite


@dataclass(frozen=True)
class Score:
    """One trial's result on one task: lm-eval's aggregate, its standard error, and which items were right.

    ``stderr`` is over the test items, and None for a single one; ``correct``, whose mean is ``value``, is None for what
    is not right or wrong.
    """

    value: float
    stderr: float | None
    correct: tuple[bool, ...] | None
    values: tuple[Any, ...] = field(default=(), repr=False, compare=False)  #: what each item adds to the aggregate


class Scorer:
    """Asks the suite's tasks of the trials whose adapters are given."""

    def __init__(self, model: PackedModel, suite: Suite, lm: PackedLM, layout: Layout) -> None:
        self.model, self.suite, self.lm, self.layout = model, suite, lm, layout

    def tokens(self, tasks: Sequence[str]) -> int:
        """Tokens of one trial's pass over these tasks."""
        return sum(self.lm.token_count(self.suite.tasks[name].task.instances) for name in tasks)

    def score(
        self,
        tasks: Sequence[str],
        values: Tensor | None,
        scaling: Tensor | None,
        progress: Callable[[int], None] = lambda tokens: None,
        layout: Layout | DenseLayout | None = None,
    ) -> list[dict[str, Score] | None]:
        """One dictionary a trial, task -> score; ``None`` for a trial with a non-finite log-probability.

        ``values`` [K, P] are the adapters to score; ``None`` scores the base, as one trial.  ``layout`` divides them,
        where that is not the scorer's layout.
        """
        trials = 1 if values is None else values.shape[0]
        instances = [instance for name in tasks for instance in self.suite.tasks[name].task.instances]
        with _undisturbed(self.model), self.model.adapted(layout or self.layout, values, scaling, precise=True):
            for name in tasks:
                self.suite.tasks[name].ahead.clear()
            self.lm.answer(instances, trials, progress, self._judge_ahead)
        return [self._judge(trial, tasks) for trial in range(trials)]

    def _judge_ahead(self, documents: Documents, logprob: np.ndarray, greedy: np.ndarray) -> None:
        task = self.suite.tasks[documents.task]
        if task.by_document:
            task.judge_ahead(documents.numbers, logprob, greedy)

    def _judge(self, trial: int, names: Sequence[str]) -> dict[str, Score] | None:
        """lm-eval's judgement of one trial's answers."""
        if trial in self.lm.broken:
            return None
        self.lm.trial = trial
        tasks = {name: self.suite.tasks[name] for name in names}
        rest = {name: scored.task for name, scored in tasks.items() if not scored.by_document}
        with trusted(f"scoring of {', '.join(tasks)}"):
            for name in tasks.keys() - rest.keys():
                tasks[name].judge_all(trial, self.lm.loglikelihood)
            results = {}
            if rest:
                with _same_draws():
                    results = evaluate(lm=self.lm, task_dict={"tasks": rest}, bootstrap_iters=0, log_samples=False)
            each = cast(dict[str, Any], results).get("results", {})
            scores = {name: _score(scored, each.get(name)) for name, scored in tasks.items()}
        return scores if all(math.isfinite(score.value) for score in scores.values()) else None


def _score(scored: ScoredTask, results: Mapping[str, Any] | None) -> Score:
    """The task's metric with its standard error over the items; ``results`` are lm-eval's, if it has evaluated them."""
    values, aggregate = scored.values(), scored.aggregate
    if results is None:
        value = aggregate(values)
    else:
        value = next(value for key, value in results.items() if key.partition(",")[0] == scored.metric)
    # lm-eval has a closed form for means alone, and a bootstrap of minutes for the rest.
    error = mean_stderr(values) if aggregate is mean and len(values) > 1 else jackknife_error(values, aggregate)
    stderr = None if error is None else float(error)
    correct = _correctness(values) if aggregate is mean else None  # of another aggregate they do not make the score
    return Score(float(value), stderr, correct, tuple(values))


def _correctness(values: list) -> tuple[bool, ...] | None:
    """Per-item results as booleans where they are that; ``None`` for perplexities and the like."""
    numbers = all(issubclass(kind, bool | int | float | np.number | np.bool_) for kind in set(map(type, values)))
    return tuple(map(bool, values)) if numbers and set(map(float, values)) <= {0.0, 1.0} else None


@contextmanager
def _same_draws() -> Iterator[None]:
    """Random states of the host are as before afterwards: every trial is judged by the same draws."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def _undisturbed(model: PackedModel) -> Iterator[None]:
    """Random states and train/eval mode are as before afterwards."""
    training = [module for module in model.module.modules() if module.training]  # none: setting it takes milliseconds
    cuda = torch.cuda.get_rng_state_all() if model.device.type == "cuda" else None
    for module in training:
        module.training = False
    try:
        with _same_draws():
            yield
    finally:
        for module in training:
            module.training = True
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
