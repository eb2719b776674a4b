"""How long a unit of work takes (:mod:`harness.study.forecast`), by part and kind: from records, else from constants.

A pack's packing, its device and its shapes move the cost of a unit by a factor of five, so what was measured on the
same stack is worth more than any constant.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.store.records import Costs
from harness.study.forecast import START_UNITS, Activity, Counts, Effort
from harness.study.plan import Pack

#: What is in a record's seconds of training.
ALL_TRAINING: tuple[Activity, ...] = ("train", "decompose")


@dataclass(frozen=True)
class Beside:
    """Seconds of a pack beside its units: what is waited for, however many rows and tokens it has."""

    pack: float = 0.0
    task: float = 0.0  #: of the stream, once: its scores
    shapes: float = 0.0  #: of a task, for each pass of a step: the shapes that it has first
    step: float = 0.0  #: for each pass of it
    samples: float = 0.0  #: of a step in which students draw answers

    def seconds(self, counts: Counts) -> float:
        tasks = counts.tasks * (self.task + counts.passes * self.shapes)
        return self.pack + tasks + counts.steps * (counts.passes * self.step + counts.samples * self.samples)


@dataclass(frozen=True)
class FirstGuess:
    """How long work takes on a kind of device, as long as no record tells."""

    base: float  #: tokens of the base alone, in a second
    units: Mapping[Activity, float] = field(default_factory=dict)  #: of a pack, in a second; without: as of the base
    beside: Beside = Beside()


@dataclass(frozen=True)
class Pace:
    """Seconds of a unit: those that records tell, then those that are guessed of a part, then ``otherwise``."""

    otherwise: float
    known: Mapping[Effort, float] = field(default_factory=dict)
    records: int = 0  #: that it was learnt from, where they tell how long training takes
    guessed: Mapping[Activity, float] = field(default_factory=dict)
    beside: Beside = Beside()  #: as long as there are no such records: what is learnt has it

    def of(self, work: Effort) -> float:
        """Of a kind that no record has, what others have for the same part: constants say how kinds compare."""
        if work in self.known:
            return self.known[work]
        alike = [seconds for (part, _), seconds in self.known.items() if part == work[0]]
        return statistics.median(alike) if alike else self.guessed.get(work[0], self.otherwise)

    def seconds(self, work: Mapping[Effort, float], counts: Counts) -> float:
        """Of a pack with this work, its start included."""
        beside = self.otherwise * START_UNITS + (0.0 if self.records else self.beside.seconds(counts))
        return beside + sum(self.of(each) * units for each, units in work.items())


@dataclass(frozen=True)
class Sample:
    """What a trial cost, and its share of the work that a forecast expects of its pack."""

    work: Mapping[Effort, float]
    costs: Costs


def learn(samples: Iterable[Sample], first: Pace) -> Pace:
    """The median over samples, for each part and kind of work that they have; for what they lack, the ``first`` pace.

    What samples cost beside their units is in their seconds.  Of training, those count first that decompose nothing;
    of the others no record tells the two apart (:func:`_divided`).
    """
    kept = list(samples)
    ratios: dict[Effort, list[float]] = {}
    for sample in kept:
        for work, units in sample.work.items():
            seconds = None if _decomposed(sample) and work[0] == "train" else _seconds(sample.costs, work[0])
            if units and seconds:
                ratios.setdefault(work, []).append(seconds / units)
    alone = replace(first, known=_medians(ratios))
    for sample in kept:
        if _decomposed(sample) and sample.costs.train_seconds:
            for work, seconds in _divided(sample, sample.costs.train_seconds, alone).items():
                if work not in alone.known:
                    ratios.setdefault(work, []).append(seconds)
    known = _medians(ratios)
    return replace(first, known=known, records=len(kept) if any(part == "train" for part, _ in known) else 0)


def _divided(sample: Sample, seconds: float, pace: Pace) -> dict[Effort, float]:
    """Seconds of a unit of training and of what was decomposed meanwhile, which took so many ``seconds`` together.

    Both as much longer or shorter than at this pace; where training is known and both took longer, it was the other.
    """
    guessed = {work: pace.of(work) * units for work, units in sample.work.items() if units and work[0] in ALL_TRAINING}
    factor = seconds / sum(guessed.values())
    found = {work: factor * pace.of(work) for work in guessed}
    trained = sum(guess for work, guess in guessed.items() if work[0] == "train")
    if all(work in pace.known for work in guessed if work[0] == "train") and factor > 1:
        longer = (seconds - trained) / (sum(guessed.values()) - trained)
        found |= {work: longer * pace.of(work) for work in guessed if work[0] == "decompose"}
    return found


def _decomposed(sample: Sample) -> bool:
    return any(units for (part, _), units in sample.work.items() if part == "decompose")


def _medians(ratios: Mapping[Effort, Sequence[float]]) -> dict[Effort, float]:
    return {work: statistics.median(each) for work, each in ratios.items()}


def _seconds(costs: Costs, part: Activity) -> float | None:
    """What a part of the work took by itself."""
    match part:
        case "train":
            return costs.train_seconds
        case "score":
            return costs.score_seconds
        case "analysis":
            return costs.analysis_seconds
        case "decompose":
            return None


def longest_first(packs: Sequence[Pack], seconds: Callable[[Pack], float]) -> tuple[Pack, ...]:
    """The packs by how long they take, so that none that is long begins last; those that take as long stay in order."""
    return tuple(sorted(packs, key=seconds, reverse=True))
