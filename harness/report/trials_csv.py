"""trials.csv: every number of every record, one row per number."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from harness.report import metrics
from harness.report.csv_files import SCHEMA_VERSION, TABLE_SCHEMA, cell
from harness.report.trial import Trial
from harness.store.files import atomic_file
from harness.store.records import Curve, TrialRecord

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


#: What a row says besides its trial: columns ``after_task`` to ``stderr``.
Number = tuple[int, int | None, str, str, float | None, int | None, float | None]


def write_trials(path: Path, trials: Sequence[Trial], unfinished: Sequence[TrialRecord]) -> Path:
    """One row per number, columns ``COLUMNS``; a failed trial has the scores that it reached, and no metrics."""
    measured = {id(trial.record): trial.metrics for trial in trials}
    records = sorted([*(t.record for t in trials), *unfinished], key=_record_order)
    text = cache(_encoded)  # few names in millions of rows

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(",".join(COLUMNS) + "\n")
            for record in records:
                file.writelines(_lines(record, measured.get(id(record), {}), text))

    atomic_file(path, write)
    return path


def _lines(record: TrialRecord, values: Mapping[str, float | None], text: Callable[[str], str]) -> Iterable[str]:
    """Rows of one record; a third faster than csv's writer, and the numbers need no quotes."""
    spec = record.spec
    head = [text(name) for name in (record.study, record.fingerprint, spec.method, spec.setting)]
    front = ",".join([*head, str(spec.seed), text(spec.order)])
    for after, examples, metric, target, value, items, error in _numbers(record, values):
        if value is not None:
            yield (
                f"{front},{after},{'' if examples is None else examples},{text(metric)},{text(target)},{cell(value)},"
                f"{'' if items is None else items},{'' if error is None else cell(error)},{TABLE_SCHEMA}\n"
            )


def _encoded(name: str) -> str:
    """One cell as csv writes it: in quotes where it must be."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([cell(name), ""])
    return line.getvalue()[:-2]


def _numbers(record: TrialRecord, values: Mapping[str, float | None]) -> Iterable[Number]:
    yield from _score_rows(record)
    yield from _curve_rows(record.curves, record.spec.stream)
    yield from _intruder_rows(record)
    last = len(record.spec.stream)
    elsewhere = {metric.name for metric in metrics.taken_of("weights", "costs")}
    for name, value in values.items():
        if name not in elsewhere:
            yield last, None, name, "", value, None, None
    for metric in metrics.taken_of("costs"):
        yield last, None, metric.name, "", metric.value(record.costs), None, None


def _record_order(record: TrialRecord) -> tuple[str, str, int, str]:
    return record.spec.arm, record.spec.order, record.spec.seed, record.fingerprint


def _score_rows(record: TrialRecord) -> Iterable[Number]:
    for target, scores in [*record.tasks.items(), *sorted(record.probes.items())]:
        for stage, (value, error) in enumerate(zip(scores.score, scores.stderr, strict=True)):
            yield stage, None, scores.metric, target, value, scores.items, error


def _curve_rows(curves: Iterable[Curve], stream: Sequence[str]) -> Iterable[Number]:
    for curve in curves:
        stage = stream.index(curve.task) + 1
        for metric, values in (("curve", curve.score), ("curve_tokens", curve.tokens)):
            for n, value in zip(curve.examples, values, strict=True):
                yield stage, n, metric, curve.task, value, None, None


def _intruder_rows(record: TrialRecord) -> Iterable[Number]:
    of_weights = metrics.taken_of("weights")
    for stage, taken in enumerate(record.intruders, start=1):
        for target, part in [("", taken), *sorted(taken.by_type.items())] if taken else ():
            for metric in of_weights:
                yield stage, None, metric.name, target, metric.value(part), None, None
