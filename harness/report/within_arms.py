"""Whether trials with more intruder dimensions forget more: over all trials, and within arms."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.correlation import Correlation, Slope, spearman, within_slope
from harness.report.study import StudyResults
from harness.report.trial import Trial
from harness.store.intruders import Intruders

#: A trial that can be asked: its arm, its metrics, and the intruders after its last task.
Point = tuple[str, Trial, Intruders]


def last_intruders(trial: Trial) -> Intruders | None:
    """Intruders after the last task; None where they were not counted or the trial adapts no matrices."""
    taken = trial.record.intruders[-1] if trial.record.intruders else None
    return taken if taken and taken.matrices else None


def points_of(study: StudyResults) -> list[Point]:
    """Every trained trial whose intruders were taken and that has a forgetting."""
    return [
        (arm.name, trial, taken)
        for arm in study.arms
        for trial in arm.trials
        if (taken := last_intruders(trial)) and trial.metrics.get("forgetting") is not None
    ]


def correlation_of(points: Sequence[Point], measure: str) -> Correlation | None:
    """Spearman's rho of forgetting and a measure of intruders (``count``, ``distance``) over all trials."""
    return spearman([float(getattr(taken, measure)) for *_, taken in points], [_lost(trial) for _, trial, _ in points])


def slope_of(points: Sequence[Point], measure: str) -> Slope | None:
    """Of forgetting on a measure of intruders within arms, with the size of the change and what was learnt held."""
    learnt = [trial.metrics.get("learning_accuracy") for _, trial, _ in points]
    norms = [taken.delta_norm for *_, taken in points]
    known = [i for i, pair in enumerate(zip(learnt, norms, strict=True)) if None not in pair]
    return within_slope(
        [points[i][0] for i in known],
        [_lost(points[i][1]) for i in known],
        [float(getattr(points[i][2], measure)) for i in known],
        {"norm of the change": [float(norms[i]) for i in known],
         "learning accuracy": [float(learnt[i] or 0.0) for i in known]},
    )  # fmt: skip


def _lost(trial: Trial) -> float:
    return float(trial.metrics["forgetting"] or 0.0)
