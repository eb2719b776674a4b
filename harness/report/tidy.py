"""trials.csv: the tidy table of every record, one row a number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from harness.report.frame import COSTS, INTRUDERS, TABLE_SCHEMA, Trial
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


def tidy_rows(trials: Sequence[Trial], unfinished: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """The tidy table: one row a number, columns ``TIDY``; a failed trial has the scores it got to, and no metrics."""
    metrics = {id(trial.record): trial.metrics for trial in trials}
    rows = []
    for record in sorted([*(t.record for t in trials), *unfinished], key=_record_order):
        spec = record.spec
        head = {"study": record.study, "trial": record.fingerprint, "method": spec.method, "setting": spec.setting,
                    "seed": spec.seed, "order": spec.order, "schema_version": TABLE_SCHEMA}  # fmt: skip
        own = [*_score_rows(record), *_curve_rows(record.curves, spec.stream), *_intruder_rows(record)]
        for name, value in metrics.get(id(record), {}).items():
            if name not in INTRUDERS and name not in COSTS:
                own.append({"after_task": len(spec.stream), "metric": name, "value": value})
        own += [
            {"after_task": len(spec.stream), "metric": name, "value": getattr(record.costs, name)} for name in COSTS
        ]
        rows += [head | row for row in own if row["value"] is not None]
    return rows


def _record_order(record: TrialRecord) -> tuple[str, str, int, str]:
    return record.spec.arm, record.spec.order, record.spec.seed, record.fingerprint


def _score_rows(record: TrialRecord) -> Iterable[dict[str, Any]]:
    for target, scores in [*record.tasks.items(), *sorted(record.probes.items())]:
        for stage, (value, error) in enumerate(zip(scores.score, scores.stderr, strict=True)):
            yield {
                "after_task": stage,
                "metric": scores.metric,
                "target": target,
                "value": value,
                "items": scores.items,
                "stderr": error,
            }


def _curve_rows(curves: Iterable[Curve], stream: Sequence[str]) -> Iterable[dict[str, Any]]:
    for curve in curves:
        stage = stream.index(curve.task) + 1
        for metric, values in (("curve", curve.score), ("curve_tokens", curve.tokens)):
            for n, value in zip(curve.examples, values, strict=True):
                yield {"after_task": stage, "examples": n, "metric": metric, "target": curve.task, "value": value}


def _intruder_rows(record: TrialRecord) -> Iterable[dict[str, Any]]:
    for stage, taken in enumerate(record.intruders, start=1):
        for target, part in [("", taken), *sorted(taken.by_type.items())] if taken else ():
            for metric, key in INTRUDERS.items():
                yield {"after_task": stage, "metric": metric, "target": target, "value": getattr(part, key)}
