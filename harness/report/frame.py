"""From trial records to arms with metrics, and how a number becomes a cell of a CSV file.

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
from harness.analysis.statistics import Estimate, interquartile_mean, stratified_mean
from harness.report.files import readable
from harness.store.files import atomic_file
from harness.store.records import TrialRecord, TrialSpec

T = TypeVar("T")
REFERENCE = "lora"
#: Arms that do not go through the stream task by task: only their final scores mean something.
NOT_SEQUENTIAL = frozenset({"multitask", "single_task"})
#: Arms whose adapter has no rank, and none at all.
NO_RANK, NO_ADAPTER = frozenset({"full_finetune", "frozen"}), frozenset({"frozen"})
#: Arms that decide by themselves what happens between tasks.
OWN_REGIME = frozenset({"single_task", "multitask", "o_lora", "lora_ewc"})
#: Arms with fewer seeds than this are provisional and not ranked.
LEAST_SEEDS = 3
#: From so many tasks and seeds up there is an interquartile mean.
IQM_TASKS, IQM_SEEDS = 3, 5
#: With these a cell is a formula for some spreadsheet, the full-width ones included.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")
#: Of the columns of leaderboard.csv and trials.csv; results/README.md says what each is.
TABLE_SCHEMA = 1

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
#: What an arm may have of its own in ``adapter`` and ``between_tasks``.
ADAPTER = ("rank", "alpha", "targets", "between_tasks")
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


@dataclass
class Arm:
    """One row of the board: every trial of one method with one setting."""

    name: str
    method: str
    setting: str
    expected: int
    settings_tried: int = 1  #: of the method: each of its arms is one, or as many as `tune` tried to choose it
    trials: list[Trial] = field(default_factory=list)
    unfinished: list[TrialRecord] = field(default_factory=list)
    _known: dict[str, dict[tuple[str, int], float]] = field(default_factory=dict, repr=False, compare=False)

    def count(self, status: str) -> int:
        return sum(record.status == status for record in self.unfinished)

    @property
    def records(self) -> list[TrialRecord]:
        """Of every trial that has one, finished ones first."""
        return [*(trial.record for trial in self.trials), *self.unfinished]

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
        if metric not in self._known:
            values = {trial.key: trial.metrics.get(metric) for trial in self.trials}
            known = {key: value for key, value in values.items() if value is not None}
            self._known[metric] = known if len(known) == len(values) else {}
        return self._known[metric]

    def estimate(self, metric: str) -> Estimate | None:
        """Mean and 95 % interval over trials, orders as strata."""
        values = self.values(metric)
        return estimate(values) if values else None

    def interquartile_mean(self) -> float | None:
        """Of the final scores of all trials on all tasks; None for few seeds or tasks, or no matrix."""
        if self.seeds < IQM_SEEDS or any(t.matrix is None or t.matrix.shape[1] < IQM_TASKS for t in self.trials):
            return None
        return interquartile_mean(np.concatenate([certain(trial.matrix)[-1] for trial in self.trials]).tolist())


def adapter_of(spec: TrialSpec) -> dict[str, Any]:
    """Rank, alpha and targets of a trial's adapter, and what was asked of it between tasks; without what it has not."""
    if spec.method in NO_ADAPTER:
        return {}
    found = {"targets": " ".join(spec.training.get("adapter", {}).get("targets", ())) or None}
    if spec.method not in NO_RANK:
        found |= {key: spec.training.get("adapter", {}).get(key) for key in ("rank", "alpha")}
    if spec.method not in OWN_REGIME:
        found["between_tasks"] = spec.training.get("between_tasks")
    return {key: found[key] for key in ADAPTER if found.get(key) is not None}


def adapters_differ(arms: Sequence[Arm]) -> bool:
    """Whether rank, alpha, targets or regime is not the same in all arms that have such a thing."""
    found = [adapter_of(arm.records[0].spec) for arm in arms if arm.records]
    return any(len({adapter.get(key) for adapter in found} - {None}) > 1 for key in ADAPTER)


def same_matrices(one: Arm, other: Arm) -> bool:
    """Whether intruders of both were counted in the same matrices; an arm that adapts none has none anywhere."""
    specs = (arm.records[0].spec for arm in (one, other) if arm.records)
    return len({adapter_of(spec).get("targets") for spec in specs} - {None}) < 2


def estimate(values: Mapping[tuple[str, int], float]) -> Estimate:
    """Stratified mean of at least one value keyed by (order, seed)."""
    keys = sorted(values)
    return certain(stratified_mean([values[key] for key in keys], [key[0] for key in keys]))


def certain(value: T | None) -> T:
    """A value that cannot be None here, for the type checker and for whoever breaks that."""
    assert value is not None
    return value


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
        if spec.method not in NOT_SEQUENTIAL:
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


def cell(value: Any) -> str:
    """One CSV cell: empty for None and for what is not finite, ten digits for floats, no spreadsheet formulas."""
    if type(value) is float:  # nearly always
        return format(value + 0.0, ".10g") if math.isfinite(value) else ""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float, np.number)):
        if not math.isfinite(value):
            return ""
        return str(int(value)) if isinstance(value, (int, np.integer)) else format(float(value) + 0.0, ".10g")
    text = readable(str(value))
    return "'" + text if text[:1] in FORMULA else text


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows under ``columns``, in their order; a key that is no column is an error, a missing one is empty."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(map(cell, columns))
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)

    atomic_file(path, write)
    return path
