"""Intruders after the last task, which three figures draw."""

from __future__ import annotations

from collections.abc import Iterable

from harness.report.arms import Arm
from harness.report.within_arms import last_intruders
from harness.store.intruders import Intruders

LABELS = {"count": "intruder dimensions", "distance": "intruder distance (1 − best |cos|)"}
#: In place of a panel of counts that are all 0.
NO_COUNTS = "No trial of any arm has an intruder dimension (best |cosine| below 0.5) {where}."


def intruders_of_arms(arms: Iterable[Arm]) -> dict[str, dict[tuple[str, int], Intruders]]:
    """Arm -> (order, seed) -> the intruders after the last task, of arms where every trial has them."""
    by_arm = {}
    for arm in arms:
        taken = {trial.key: last_intruders(trial) for trial in arm.trials}
        if all(taken.values()):
            by_arm[arm.name] = {key: value for key, value in taken.items() if value}
    return by_arm
