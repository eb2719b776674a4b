"""What is measured of one trial: its record, its accuracy matrix, and its metrics.

Only finished trials have metrics.  A metric that has no meaning for a trial is None here, an empty cell in every
file and a dash on the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis import continual, efficiency
from harness.report.estimates import certain
from harness.store.records import TrialRecord

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
#: What trials spend on one task: (order, seed) -> (examples, tokens).
Budgets = dict[tuple[str, int], tuple[float, float]]


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


def trial_metrics(record: TrialRecord, gains: dict[str, list[float]], budgets: dict[str, Budgets]) -> Trial:
    """All metrics of one finished trial, from its record, and from plain LoRA's ``gains`` and ``budgets``.

    See :func:`reference_gains` and :func:`reference_budgets`.  Nothing of any other arm comes in: the numbers of an arm
    don't depend on who else is on the board.
    """
    spec = record.spec
    ordinary = all(record.tasks[task].higher_is_better for task in spec.stream)
    matrix = continual.as_matrix(record.matrix()) if ordinary else None
    metrics: dict[str, float | None] = {}
    if matrix is not None:
        metrics["average_accuracy"] = continual.average_accuracy(matrix)
        metrics["average_accuracy_stderr"] = _error_of_mean([record.tasks[task].stderr[-1] for task in spec.stream])
        if record.facts.sequential:
            metrics |= {name: function(matrix) for name, function in CONTINUAL.items()}
            metrics |= curve_metrics(record, gains, budgets)
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
    record: TrialRecord, gains: dict[str, list[float]], budgets: dict[str, Budgets]
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
        limits = [_horizon(budgets[task], (record.spec.order, record.spec.seed)) for task in curves]
        for nth, axis in enumerate(("examples", "tokens")):
            name = f"{axis}_to_90"
            times = [efficiency.first_reached(getattr(c, axis), c.score, reachable[t]) for t, c in curves.items()]
            reached = efficiency.restricted_mean(times, [limit[nth] for limit in limits])
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


def reference_budgets(records: Iterable[TrialRecord]) -> dict[str, Budgets]:
    """By task, the examples and tokens that each trial of plain LoRA spends on it."""
    budgets: dict[str, Budgets] = {}
    for record in records:
        for curve in (curve for curve in record.curves if curve.examples):
            own = budgets.setdefault(curve.task, {})
            own[record.spec.order, record.spec.seed] = curve.examples[-1], curve.tokens[-1]
    return budgets


def _horizon(budgets: Budgets, key: tuple[str, int]) -> tuple[float, float]:
    """How far a trial is followed on a task, in examples and tokens: as far as plain LoRA goes on the same data.

    Restricted means need one horizon for all arms: a method that spends more tokens is not followed for longer.  It is
    plain LoRA's, as the level to reach is, and not the least of all arms': what another arm spends on a task, or counts
    on a curve of mixed tasks, says nothing of this one.  Where plain LoRA lacks the trial, the mean of its others.
    """
    if key in budgets:
        return budgets[key]
    examples, tokens = np.mean(list(budgets.values()), axis=0)
    return float(examples), float(tokens)
