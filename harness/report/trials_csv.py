"""trials.csv: every number of every record, one row a number."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from harness.report.csv_files import TABLE_SCHEMA, cell
from harness.report.evidence import COSTS, INTRUDERS, Trial
from harness.store.files import atomic_file
from harness.store.records import Curve, TrialRecord

TIDY = (
    "study",
    "trial",
    "method",
    "setting",
    "seed",
    "order",
    "after_task",
    "examples",
    "metric",
    "target",
    "value",
    "items",
    "stderr",
    "schema_version",
)


#: What a row says beside its trial: columns ``after_task`` to ``stderr``.
Number = tuple[int, int | None, str, str, float | None, int | None, float | None]


def write_trials(path: Path, trials: Sequence[Trial], unfinished: Sequence[TrialRecord]) -> Path:
    """The tidy table: one row a number, columns ``TIDY``; a failed trial has the scores it got to, and no metrics."""
    metrics = {id(trial.record): trial.metrics for trial in trials}
    records = sorted([*(t.record for t in trials), *unfinished], key=_record_order)
    text = cache(_encoded)  # few names in millions of rows

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(",".join(TIDY) + "\n")
            for record in records:
                file.writelines(_lines(record, metrics.get(id(record), {}), text))

    atomic_file(path, write)
    return path


def _lines(record: TrialRecord, metrics: Mapping[str, float | None], text: Callable[[str], str]) -> Iterable[str]:
    """Rows of one record; a third faster than csv's writer, and the numbers need no quotes."""
    spec = record.spec
    head = [text(name) for name in (record.study, record.fingerprint, spec.method, spec.setting)]
    front = ",".join([*head, str(spec.seed), text(spec.order)])
    for after, examples, metric, target, value, items, error in _numbers(record, metrics):
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


def _numbers(record: TrialRecord, metrics: Mapping[str, float | None] | None) -> Iterable[Number]:
    yield from _score_rows(record)
    yield from _curve_rows(record.curves, record.spec.stream)
    yield from _intruder_rows(record)
    last = len(record.spec.stream)
    for name, value in (metrics or {}).items():
        if name not in INTRUDERS and name not in COSTS:
            yield last, None, name, "", value, None, None
    for name in COSTS:
        yield last, None, name, "", getattr(record.costs, name), None, None


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
    for stage, taken in enumerate(record.intruders, start=1):
        for target, part in [("", taken), *sorted(taken.by_type.items())] if taken else ():
            for metric, key in INTRUDERS.items():
                yield stage, None, metric, target, getattr(part, key), None, None
