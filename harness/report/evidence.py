"""What the metrics of one trial are taken from: its record, its accuracy matrix, its learning curves, others' trials.

Others are the reference's, for what it takes to get as far as it does, and those of the control that learns each task
afresh, for what a stream costs at learning time.

A metric that has no meaning for a trial is None here, an empty cell in every file and a dash on the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.analysis import continual, efficiency, statistics
from harness.report.estimates import certain
from harness.store.records import Costs, Curve, TrialRecord

if TYPE_CHECKING:
    from harness.report.arms import Arm

#: The fewest tasks and seeds for an interquartile mean.
IQM_TASKS, IQM_SEEDS = 3, 5
#: What a trial of the control that learns each task afresh gets to on the tasks, by (order, seed).
OnOneTask = Mapping[tuple[str, int], Sequence[float]]
#: What trials spend on one task: (order, seed) -> (examples, tokens).
Budgets = dict[tuple[str, int], tuple[float, float]]


@dataclass(frozen=True)
class Yardstick:
    """What the metrics of all arms take from the trials of the reference, by task.

    One reference for the whole board, whomever an arm is compared with: rows are read beside each other.  No other arm
    enters: the numbers of an arm don't depend on who else is on the board.
    """

    gains: dict[str, list[float]] = field(default_factory=dict)  #: best gain over the base model, of each trial
    budgets: dict[str, Budgets] = field(default_factory=dict)  #: examples and tokens that each trial spends
    _levels: dict[tuple[str, float], float | None] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, records: Iterable[TrialRecord]) -> Yardstick:
        """From the finished records of the reference; one that mixes tasks has no curve of a task, and says nothing."""
        found = cls()
        for record in (each for each in records if each.facts.sequential):
            for curve in record.curves:
                base = certain(record.tasks[curve.task].score[0])
                if (gain := efficiency.best_gain(curve.examples, curve.score, base)) is not None:
                    found.gains.setdefault(curve.task, []).append(gain)
                if curve.examples:
                    spent = curve.examples[-1], curve.tokens[-1]
                    found.budgets.setdefault(curve.task, {})[record.spec.order, record.spec.seed] = spent
        return found

    def level(self, task: str, base: float) -> float | None:
        """The score that is 90 % of the reference's gain above the base model's; None where there is no gain."""
        if (task, base) not in self._levels:  # nearly all trials ask for the same
            self._levels[task, base] = efficiency.threshold(base, self.gains.get(task, ()))
        return self._levels[task, base]

    def horizon(self, task: str, key: tuple[str, int]) -> tuple[float, float]:
        """How far a trial is followed on a task, in examples and tokens: as far as the reference goes on the same data.

        Restricted means need one horizon for all arms: a method that spends more tokens is not followed for longer.
        The horizon is the reference's, like the level to reach, and not the shortest of all arms': what another arm
        spends on a task, or counts on a curve of mixed tasks, says nothing about this one.  Where the reference lacks
        the trial, it is the mean of its other trials.
        """
        budgets = self.budgets[task]
        if key in budgets:
            return budgets[key]
        examples, tokens = np.mean(list(budgets.values()), axis=0)
        return float(examples), float(tokens)


@dataclass(frozen=True)
class Evidence:
    """A finished trial, and what its metrics take from others' trials."""

    record: TrialRecord
    yardstick: Yardstick
    on_one_task: OnOneTask = field(default_factory=dict)
    unlearnt: frozenset[str] = frozenset()  #: tasks that this model does not learn, by themselves (headroom)

    @cached_property
    def matrix(self) -> np.ndarray | None:
        """(T+1) x T; None where lower is better for one of the tasks."""
        record = self.record
        ordinary = all(record.tasks[task].higher_is_better for task in record.spec.stream)
        return continual.as_matrix(record.matrix()) if ordinary else None

    @property
    def sequential(self) -> bool:
        """Whether the trial went through the stream task by task; else only its final scores mean something."""
        return self.record.facts.sequential

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """By task; empty unless every task of the stream has one."""
        curves = {curve.task: curve for curve in self.record.curves}
        missing = any(task not in curves for task in self.record.spec.stream)
        return {} if missing or self.matrix is None or not self.sequential else curves

    def base(self, task: str) -> float:
        """The base model's score."""
        return certain(self.record.tasks[task].score[0])

    @cached_property
    def reached_90(self) -> dict[str, efficiency.Restricted | None]:
        """Examples and tokens to 90 % of the reference's gain, over the tasks; empty where it gains nothing on one."""
        levels = {task: self.yardstick.level(task, self.base(task)) for task in self.curves}
        reachable = {task: level for task, level in levels.items() if level is not None}
        if len(reachable) < len(levels):
            return {}
        key = (self.record.spec.order, self.record.spec.seed)
        limits = [self.yardstick.horizon(task, key) for task in self.curves]
        means = {}
        for nth, axis in enumerate(("examples", "tokens")):
            times = [
                efficiency.first_reached(getattr(curve, axis), curve.score, reachable[task])
                for task, curve in self.curves.items()
            ]
            means[axis] = efficiency.restricted_mean(times, [limit[nth] for limit in limits])
        return means


@dataclass(frozen=True)
class AuditedSequence:
    """Adapters saved after each task of one training run, which an audit scored: only their matrix is known."""

    matrix: np.ndarray
    sequential: bool = True


Value = Callable[[Evidence], float | None]
OfMatrix = Callable[[Evidence | AuditedSequence], float | None]


def of_matrix(function: Callable[[np.ndarray], float | None]) -> OfMatrix:
    """A metric of the accuracy matrix that any finished trial has."""
    return lambda trial: None if trial.matrix is None else function(trial.matrix)


def of_stream(function: Callable[[np.ndarray], float | None]) -> OfMatrix:
    """A metric of the accuracy matrix that means something where the trial went through the stream task by task."""
    return lambda trial: function(trial.matrix) if trial.matrix is not None and trial.sequential else None


def learnt_on_one_task(records: Iterable[TrialRecord]) -> OnOneTask:
    """From the finished records of a study: none unless one arm is a control that learns each task afresh."""
    fresh = [record for record in records if record.facts.control and record.facts.between == "fresh"]
    if len({record.spec.arm for record in fresh}) != 1:
        return {}
    return {
        (record.spec.order, record.spec.seed): np.diagonal(continual.as_matrix(record.matrix()), offset=-1).tolist()
        for record in fresh
    }


def intransigence(trial: Evidence) -> float | None:
    """None without the same order and seed of a control that learns each task afresh."""
    best = trial.on_one_task.get((trial.record.spec.order, trial.record.spec.seed))
    if best is None or trial.matrix is None or not trial.sequential:
        return None
    return continual.intransigence(trial.matrix, best)


def average_accuracy_stderr(trial: Evidence) -> float | None:
    """Standard error over the test items of the mean score of the tasks; None unless every score has one."""
    if trial.matrix is None:
        return None
    errors = [trial.record.tasks[task].stderr[-1] for task in trial.record.spec.stream]
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if len(known) == len(errors) else None


def sample_efficiency_auc(trial: Evidence) -> float | None:
    """Mean over the tasks; None unless every task has a curve."""
    return _mean_area(trial, {task: curve.score for task, curve in trial.curves.items()})


def sample_efficiency_auc_student(trial: Evidence) -> float | None:
    """The same of the student, for a trial that scores its average; None elsewhere, or where that was not taken."""
    students = {task: curve.student for task, curve in trial.curves.items()}
    return _mean_area(trial, students) if all(students.values()) else None


def _mean_area(trial: Evidence, scores: Mapping[str, tuple[float, ...]]) -> float | None:
    areas = [
        efficiency.sample_efficiency_auc(trial.curves[task].examples, values, trial.base(task))
        for task, values in scores.items()
    ]
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if known and len(known) == len(areas) else None


def reached_90(axis: Literal["examples", "tokens"], part: Literal["mean", "share"]) -> Value:
    """Restricted mean over the tasks, or the share of them that got there."""

    def value(trial: Evidence) -> float | None:
        restricted = trial.reached_90.get(axis)
        return None if restricted is None else getattr(restricted, part)

    return value


def average_accuracy_of_learnt(trial: Evidence) -> float | None:
    """Without the tasks that are not learnt; None where there are none of these, or nothing else."""
    stream = trial.record.spec.stream
    kept = [place for place, task in enumerate(stream) if task not in trial.unlearnt]
    if trial.matrix is None or not 0 < len(kept) < len(stream):
        return None
    return float(trial.matrix[-1][kept].mean())


def general_delta(trial: Evidence) -> float | None:
    return continual.general_delta(p.score for p in trial.record.probes.values() if p.higher_is_better)


def plain_text_delta(trial: Evidence) -> float | None:
    """None unless there is one probe in bits per byte."""
    texts = [p.score for p in trial.record.probes.values() if p.metric == "bits_per_byte"]
    return continual.plain_text_delta(texts[0]) if len(texts) == 1 else None


def interquartile_mean(arm: Arm) -> float | None:
    """Of the final scores of all trials on all tasks; None for few seeds or tasks, or no matrix."""
    if arm.seeds < IQM_SEEDS or any(t.matrix is None or t.matrix.shape[1] < IQM_TASKS for t in arm.trials):
        return None
    return statistics.interquartile_mean(np.concatenate([certain(trial.matrix)[-1] for trial in arm.trials]).tolist())


def all_tokens(costs: Costs) -> float | None:
    """What training sends through the model, of whomever; None where it was not counted."""
    parts = costs.train_tokens, costs.teacher_tokens, costs.prompt_tokens, costs.sampled_tokens
    return None if costs.train_tokens is None else float(sum(part or 0 for part in parts))
