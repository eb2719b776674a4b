"""trials.csv: every number of every record, one row per number."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.report import metrics
from harness.report.csv_files import SCHEMA_VERSION, TABLE_SCHEMA, cell
from harness.report.trial import Trial
from harness.store.files import atomic_file
from harness.store.records import TrialRecord

COLUMNS = {
    "study": "as the study file names it",
    "trial": "the fingerprint of the trial",
    "method": "of the trial",
    "setting": "the same",
    "seed": "the same",
    "order": "the same",
    "after_task": "0 for the base model, t after the t-th task",
    "examples": "for points of a learning curve: examples of the task seen so far",
    "metric": "a task's own metric (`acc`), `curve`, `curve_tokens`, or a name from above",
    "target": "the task, probe or type of projection; empty for the trial as a whole",
    "value": "the number; what is not known has no row",
    "items": "of a score: test items",
    "stderr": "of a score: its standard error over the test items",
    SCHEMA_VERSION: "of this table",
}


#: Metrics that an unfinished trial has as well, and those that have rows of their own.
COSTS = metrics.taken_of("costs")
ELSEWHERE = {metric.name for metric in metrics.taken_of("weights", "costs")}
#: What ends a row that is no score: no items, no standard error.
NO_SCORE = f",,,{TABLE_SCHEMA}\n"


def write_trials(path: Path, trials: Sequence[Trial], unfinished: Sequence[TrialRecord]) -> Path:
    """One row per number, columns ``COLUMNS``; a failed trial has the scores that it reached, and no metrics."""
    measured = {id(trial.record): trial.metrics for trial in trials}
    records = sorted([*(t.record for t in trials), *unfinished], key=_record_order)

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(",".join(COLUMNS) + "\n")
            for record in records:
                front = _front(record)
                file.write(front.join(["", *_rows(record, measured.get(id(record), {}))]))

    atomic_file(path, write)
    return path


def _front(record: TrialRecord) -> str:
    """What every row of a record begins with."""
    spec = record.spec
    head = [_text(name) for name in (record.study, record.fingerprint, spec.method, spec.setting)]
    return ",".join([*head, str(spec.seed), _text(spec.order), ""])


@lru_cache(maxsize=1024)
def _text(name: str) -> str:
    """One cell as csv writes it: in quotes where it must be.  Few names stand in millions of rows."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([cell(name), ""])
    return line.getvalue()[:-2]


#: Shares of so many items are few numbers.
_score = lru_cache(maxsize=4096, typed=True)(cell)


def _rows(record: TrialRecord, values: Mapping[str, float | None]) -> list[str]:
    """Columns ``after_task`` to the last of every row; a quarter of the time that csv's writer takes."""
    return [*_score_rows(record), *_curve_rows(record), *_intruder_rows(record), *_metric_rows(record, values)]


def _record_order(record: TrialRecord) -> tuple[str, str, int, str]:
    return record.spec.arm, record.spec.order, record.spec.seed, record.fingerprint


def _score_rows(record: TrialRecord) -> list[str]:
    return [
        f"{stage},,{what},{_score(value)},{scores.items},{_score(error)},{TABLE_SCHEMA}\n"
        for name, scores in [*record.tasks.items(), *sorted(record.probes.items())]
        for what in [f"{_text(scores.metric)},{_text(name)}"]
        for stage, (value, error) in enumerate(zip(scores.score, scores.stderr, strict=True))
        if value is not None
    ]


def _curve_rows(record: TrialRecord) -> list[str]:
    return [
        f"{stage},{n},{metric},{task},{_score(value)}{NO_SCORE}"
        for curve in record.curves
        for stage, task in [(record.spec.stream.index(curve.task) + 1, _text(curve.task))]
        for metric, values in (("curve", curve.score), ("curve_tokens", curve.tokens))
        for n, value in zip(curve.examples, values, strict=True)
    ]


def _intruder_rows(record: TrialRecord) -> list[str]:
    return [
        f"{front}{cell(value)}{NO_SCORE}"
        for stage, taken in enumerate(record.intruders, start=1)
        for name, part in ([("", taken), *sorted(taken.by_type.items())] if taken else ())
        for front, value_of in _of_weights(stage, name)
        if (value := value_of(part)) is not None
    ]


def _metric_rows(record: TrialRecord, values: Mapping[str, float | None]) -> list[str]:
    last = len(record.spec.stream)
    own = [(name, value) for name, value in values.items() if name not in ELSEWHERE]
    costs = [(metric.name, metric.value(record.costs)) for metric in COSTS]
    return [f"{last},,{_text(name)},,{cell(value)}{NO_SCORE}" for name, value in (*own, *costs) if value is not None]


@lru_cache(maxsize=1024)
def _of_weights(stage: int, place: str) -> list[tuple[str, Callable[[Any], float | None]]]:
    """Columns ``after_task`` to ``target`` of each metric of a place, and where its number comes from."""
    return [(f"{stage},,{_text(metric.name)},{_text(place)},", metric.value) for metric in metrics.taken_of("weights")]
