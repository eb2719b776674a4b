"""How long a unit of work takes (:mod:`harness.study.forecast`), by part and kind: from records, else from constants.

A pack's packing, its device and its shapes move the cost of a unit by a factor of five, so what was measured on the
same stack is worth more than any constant.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.store.records import Costs
from harness.study.forecast import START_UNITS, Activity, Effort
from harness.study.plan import Pack


@dataclass(frozen=True)
class Pace:
    """Seconds of a unit: those that records tell, and ``otherwise`` those of all other work."""

    otherwise: float
    known: Mapping[Effort, float] = field(default_factory=dict)
    records: int = 0  #: that it was learnt from
    start: float = 0.0  #: seconds of a pack beside its units, where nothing has been learnt: what is learnt has them

    def of(self, work: Effort) -> float:
        """Of a kind that no record has, what others have for the same part: constants say how kinds compare."""
        if work in self.known:
            return self.known[work]
        alike = [seconds for (part, _), seconds in self.known.items() if part == work[0]]
        return statistics.median(alike) if alike else self.otherwise

    def seconds(self, work: Mapping[Effort, float]) -> float:
        """Of a pack with this work, its start included."""
        beside = self.otherwise * START_UNITS + (0.0 if self.known else self.start)
        return beside + sum(self.of(each) * units for each, units in work.items())


@dataclass(frozen=True)
class Sample:
    """What a trial cost, and its share of the work that a forecast expects of its pack."""

    work: Mapping[Effort, float]
    costs: Costs


def learn(samples: Iterable[Sample], otherwise: float, start: float = 0.0) -> Pace:
    """The median over samples, for each part and kind of work that they have."""
    ratios: dict[Effort, list[float]] = {}
    count = 0
    for sample in samples:
        count += 1
        for work, units in sample.work.items():
            seconds = _seconds(sample.costs, work[0])
            if units and seconds:
                ratios.setdefault(work, []).append(seconds / units)
    known = {work: statistics.median(each) for work, each in ratios.items()}
    return Pace(otherwise, known, count if ratios else 0, start)


def _seconds(costs: Costs, part: Activity) -> float | None:
    return {"train": costs.train_seconds, "score": costs.score_seconds, "analysis": costs.analysis_seconds}[part]


def longest_first(packs: Sequence[Pack], seconds: Callable[[Pack], float]) -> tuple[Pack, ...]:
    """The packs by how long they take, so that none that is long begins last; those that take as long stay in order."""
    return tuple(sorted(packs, key=seconds, reverse=True))
