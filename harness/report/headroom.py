"""Whether each task can be learnt at all by this model: what the control that learns each task afresh gets to on it.

A task that it learns nothing of stays in the stream, marked; averages are given with and without it.  Only controls are
asked, so no contestant decides on what it is judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from harness.report.estimates import certain
from harness.store.records import TrialRecord

#: What training on a task alone has to gain, over the base model and over always giving the most frequent answer.
LEAST_GAIN = 0.05


@dataclass(frozen=True)
class Headroom:
    """One task: scores of the base model and after training on it alone, means over trials."""

    base: float
    alone: float
    majority: float | None  #: what always giving the most frequent answer scores

    @property
    def learnt(self) -> bool:
        return self.alone - max(self.base, self.majority or 0.0) >= LEAST_GAIN


def headroom(records: Iterable[TrialRecord]) -> dict[str, Headroom]:
    """By task, from the finished records of the one control that learns each task afresh; empty without it.

    Tasks that are better the lower their score are left out.
    """
    fresh = [r for r in records if r.status == "ok" and r.facts.control and r.facts.between == "fresh"]
    if len({record.spec.arm for record in fresh}) != 1:
        return {}
    found: dict[str, list[tuple[float, float, float | None]]] = defaultdict(list)
    for record in fresh:
        for place, task in enumerate(record.spec.stream, start=1):
            scores = record.tasks[task]
            if scores.higher_is_better:
                found[task].append((certain(scores.score[0]), certain(scores.score[place]), scores.majority))
    return {
        task: Headroom(
            base=float(np.mean([base for base, _, _ in each])),
            alone=float(np.mean([alone for _, alone, _ in each])),
            majority=each[0][2],
        )
        for task, each in found.items()
    }


def unlearnt(found: dict[str, Headroom]) -> frozenset[str]:
    """The tasks that were not learnt."""
    return frozenset(task for task, each in found.items() if not each.learnt)
