"""Intruders after the last task, which three figures draw."""

from __future__ import annotations

from collections.abc import Iterable

from harness.report.arms import Arm
from harness.report.trial import Trial
from harness.store.intruders import Intruders

LABELS = {"count": "intruder dimensions", "distance": "intruder distance (1 − best |cos|)"}


def last_intruders(trial: Trial) -> Intruders | None:
    """After the last task, where it was taken and the trial has adapted matrices at all."""
    taken = trial.record.intruders[-1] if trial.record.intruders else None
    return taken if taken and taken.matrices else None


def intruders_of_arms(arms: Iterable[Arm]) -> dict[str, dict[tuple[str, int], Intruders]]:
    """Arm -> (order, seed) -> the intruders after the last task, of arms where every trial has them."""
    found = {}
    for arm in arms:
        taken = {trial.key: last_intruders(trial) for trial in arm.trials}
        if all(taken.values()):
            found[arm.name] = {key: value for key, value in taken.items() if value}
    return found
