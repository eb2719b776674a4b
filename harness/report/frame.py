"""From trial records to arms with metrics, and to the tidy table (one row a number).

Only finished trials have metrics.  A metric that has no meaning for a trial is None here, an empty cell in every
file and a dash on the page.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness.analysis import continual, efficiency
from harness.analysis.statistics import Estimate, stratified_mean
from harness.store.records import Curve, TrialRecord

T = TypeVar("T")
REFERENCE = "lora"
#: Arms that do not go through the stream task by task: only their final scores mean something.
NOT_SEQUENTIAL = frozenset({"multitask", "single_task"})
#: Arms with fewer seeds than this are provisional and not ranked.
LEAST_SEEDS = 3

CONTINUAL = {
    "average_accuracy_over_time": continual.average_accuracy_over_time,
    "backward_transfer": continual.backward_transfer,
    "backward_transfer_trace": continual.backward_transfer_trace,
    "forgetting": continual.forgetting,
    "forward_transfer": continual.forward_transfer,
    "learning_accuracy": continual.learning_accuracy,
    "normalised_forgetting": continual.normalised_forgetting,
}
INTRUDERS = {
    "intruder_count": "count",
    "intruder_distance": "distance",
    "intruder_energy_share": "energy_share",
    "delta_norm": "delta_norm",
    "relative_spectral_norm": "relative_spectral_norm",
    "effective_rank": "effective_rank",
}
COSTS = (
    "train_seconds",
    "score_seconds",
    "analysis_seconds",
    "train_tokens",
    "teacher_tokens",
    "prompt_tokens",
    "sampled_tokens",
    "tokens_per_second",
    "peak_memory_gib",
    "adapter_bytes",
    "trained_parameters",
    "energy_kwh",
)
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
)


@dataclass(frozen=True)
class Trial:
    """A finished trial: its record, its (T+1) x T matrix (None where a task has no "higher is better") and metrics."""

    record: TrialRecord
    matrix: np.ndarray | None
    metrics: dict[str, float | None]

    @property
    def key(self) -> tuple[str, int]:
        """What pairs it with a trial of another arm: order (the stratum) and seed."""
        return self.record.spec.order, self.record.spec.seed


@dataclass
class Arm:
    """One row of the board: every trial of one method with one setting."""

    name: str
    method: str
    setting: str
    expected: int
    trials: list[Trial] = field(default_factory=list)
    unfinished: list[TrialRecord] = field(default_factory=list)

    def count(self, status: str) -> int:
        return sum(record.status == status for record in self.unfinished)

    @property
    def missing(self) -> int:
        return max(0, self.expected - len(self.trials) - len(self.unfinished))

    @property
    def seeds(self) -> int:
        return len({trial.record.spec.seed for trial in self.trials})

    @property
    def complete(self) -> bool:
        """Whether every trial that was wanted finished; a mean over survivors would flatter the arm."""
        return bool(self.trials) and not self.unfinished and not self.missing

    def why_not_ranked(self) -> str:
        """Empty for a ranked arm."""
        reasons = [f"{n} {word}" for word, n in self.failures().items() if n]
        if self.trials and self.seeds < LEAST_SEEDS:
            reasons.append(f"provisional: {self.seeds} seed{'s' if self.seeds > 1 else ''}")
        if self.trials and self.estimate("average_accuracy") is None:
            reasons.append("no average accuracy")
        return ", ".join(reasons) or ("" if self.trials else "no trials")

    def failures(self) -> dict[str, int]:
        failed = len(self.unfinished) - self.count("diverged")
        return {"diverged": self.count("diverged"), "failed": failed, "missing": self.missing}

    def values(self, metric: str) -> dict[tuple[str, int], float]:
        """The metric of every finished trial; empty unless all of them have it (a mean over some is another metric)."""
        values = {trial.key: trial.metrics.get(metric) for trial in self.trials}
        known = {key: value for key, value in values.items() if value is not None}
        return known if len(known) == len(values) else {}

    def estimate(self, metric: str) -> Estimate | None:
        """Mean and 95 % interval over trials, orders as strata."""
        values = self.values(metric)
        return estimate(values) if values else None


def estimate(values: Mapping[tuple[str, int], float]) -> Estimate:
    """Stratified mean of at least one value keyed by (order, seed)."""
    keys = sorted(values)
    return certain(stratified_mean([values[key] for key in keys], [key[0] for key in keys]))


def certain(value: T | None) -> T:
    """A value that cannot be None here, for the type checker and for whoever breaks that."""
    assert value is not None
    return value


def trial_metrics(record: TrialRecord, gains: dict[str, list[float]], limits: dict[str, tuple[float, float]]) -> Trial:
    """All metrics of one finished trial.  ``gains``: see :func:`reference_gains`; ``limits``: see :func:`horizons`."""
    spec = record.spec
    ordinary = all(record.tasks[task].higher_is_better for task in spec.stream)
    matrix = continual.as_matrix(record.matrix()) if ordinary else None
    metrics: dict[str, float | None] = {}
    if matrix is not None:
        metrics["average_accuracy"] = continual.average_accuracy(matrix)
        metrics["average_accuracy_stderr"] = _error_of_mean([record.tasks[task].stderr[-1] for task in spec.stream])
        if spec.method not in NOT_SEQUENTIAL:
            metrics |= {name: function(matrix) for name, function in CONTINUAL.items()}
            metrics |= curve_metrics(record, gains, limits)
    probes = record.probes
    metrics["general_delta"] = continual.general_delta(p.score for p in probes.values() if p.higher_is_better)
    texts = [p.score for p in probes.values() if p.metric == "bits_per_byte"]
    metrics["plain_text_delta"] = continual.plain_text_delta(texts[0]) if len(texts) == 1 else None
    metrics |= {f"delta_{name}": continual.delta(probe.score) for name, probe in sorted(probes.items())}
    last = record.intruders[-1] if record.intruders else None
    metrics |= {name: float(getattr(last, key)) if last else None for name, key in INTRUDERS.items()}
    metrics |= {name: getattr(record.costs, name) for name in COSTS}
    return Trial(record, matrix, metrics)


def _error_of_mean(errors: Sequence[float | None]) -> float | None:
    """Standard error, over the test items, of the mean of scores on different tasks; None unless each has one."""
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if len(known) == len(errors) else None


def curve_metrics(
    record: TrialRecord, gains: dict[str, list[float]], limits: dict[str, tuple[float, float]]
) -> dict[str, float | None]:
    """Sample efficiency of one trial: means over the stream's tasks; None unless every task has a curve."""
    curves = {curve.task: curve for curve in record.curves}
    if any(task not in curves for task in record.spec.stream):
        return {}
    base = {task: certain(record.tasks[task].score[0]) for task in curves}
    areas = [efficiency.sample_efficiency_auc(c.examples, c.score, base[c.task]) for c in curves.values()]
    known = [area for area in areas if area is not None]
    metrics: dict[str, float | None] = {
        "sample_efficiency_auc": float(np.mean(known)) if known and len(known) == len(areas) else None
    }
    levels = {task: efficiency.threshold(base[task], gains.get(task, ())) for task in curves}
    reachable = {task: level for task, level in levels.items() if level is not None}
    if len(reachable) == len(levels):
        for name, axis, limit in (("examples_to_90", "examples", 0), ("tokens_to_90", "tokens", 1)):
            times = [efficiency.first_reached(getattr(c, axis), c.score, reachable[t]) for t, c in curves.items()]
            reached = efficiency.restricted_mean(times, [limits[task][limit] for task in curves])
            if reached:
                metrics |= {name: reached.mean, f"{name}_share": reached.share}
    return metrics


def reference_gains(records: Iterable[TrialRecord]) -> dict[str, list[float]]:
    """By task, the best gain over the base model of each trial of plain LoRA."""
    gains: dict[str, list[float]] = {}
    for record in records:
        for curve in record.curves:
            gain = efficiency.best_gain(curve.examples, curve.score, certain(record.tasks[curve.task].score[0]))
            if gain is not None:
                gains.setdefault(curve.task, []).append(gain)
    return gains


def horizons(records: Iterable[TrialRecord]) -> dict[str, tuple[float, float]]:
    """By task, the examples and the tokens that the curves of all ``records`` cover.

    The records are the arms' trials of one order and seed, which learn from the same data.  Restricted means need one
    horizon for all arms: a method that spends more tokens is not followed for longer.
    """
    limits: dict[str, tuple[float, float]] = {}
    for curve in (curve for record in records for curve in record.curves if curve.examples):
        examples, tokens = limits.get(curve.task, (math.inf, math.inf))
        # An arm that spends nothing (frozen) sets no horizon: it reaches the level nowhere.
        spent = curve.tokens[-1] or math.inf
        limits[curve.task] = (min(examples, curve.examples[-1]), min(tokens, spent))
    return {task: (n, 0.0 if math.isinf(spent) else spent) for task, (n, spent) in limits.items()}


def tidy_rows(trials: Sequence[Trial], unfinished: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """The tidy table: one row a number, columns ``TIDY``; a failed trial has the scores it got to, and no metrics."""
    metrics = {id(trial.record): trial.metrics for trial in trials}
    rows = []
    for record in sorted([*(t.record for t in trials), *unfinished], key=_record_order):
        spec = record.spec
        head = {"study": record.study, "trial": record.fingerprint, "method": spec.method, "setting": spec.setting,
                    "seed": spec.seed, "order": spec.order}  # fmt: skip
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


def cell(value: Any) -> str:
    """One CSV cell: empty for None and for what is not finite, ten digits for floats, no spreadsheet formulas."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float, np.number)):
        if not math.isfinite(value):
            return ""
        return str(int(value)) if isinstance(value, (int, np.integer)) else format(float(value) + 0.0, ".10g")
    text = str(value)
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows under ``columns``, in their order; a key that is no column is an error, a missing one is empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    return path
