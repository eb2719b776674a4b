"""How far a run is: what its jobs report, put together for whoever watches, here or in another shell.

Every job counts in the units of its forecast, which is a few per cent wrong; so a job that has ended counts as all that
was expected of it, and a run ends at 100 %.  What is left is the longer of two times: for all that is left at the speed
of the whole run, and for what a job at work has left at its own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.executors.interface import ENDED, FAILED, NO_FIGURES, STARTING, Figures
from harness.store.standing import JobStanding, Standing, remove_standing, write_standing
from harness.study.halving import halves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.study.plan import Pack, Plan

#: Seconds between two looks of a person, and between two of the file.
SHOWN_EVERY, WRITTEN_EVERY = 0.25, 1.0


@dataclass
class _AtWork:
    """A job since its first report."""

    what: str = STARTING
    units: float = 0.0
    figures: Figures = field(default_factory=dict)
    began: float | None = None  #: with its stream: what loading and an earlier run have done tells no speed
    had: float = 0.0  #: units when it began

    def take(self, units: float, what: str, figures: Figures, now: float) -> float:
        """Note a report; the units that were done since the last one."""
        before, self.units, self.what = self.units, units, what
        if self.began is not None:
            self.figures = figures or self.figures
            return max(0.0, units - before)
        if figures:
            self.figures, self.began, self.had = figures, now, units
        return 0.0

    def seconds_left(self, expected: float, now: float) -> float | None:
        """At its own speed."""
        gained = self.units - self.had
        if self.began is None or gained <= 0:
            return None
        return max(0.0, expected - self.units) * (now - self.began) / gained


@dataclass
class Tracker:
    """What the jobs of a run have reported; ``show`` is given how far it is, a few times a second at most."""

    plan: Plan
    todo: Sequence[Pack]
    device: str
    folder: Path
    show: Callable[[Standing], None]
    _units: Callable[[Pack], float] | None = None
    _expected: dict[str, float] = field(default_factory=dict)  #: units of every job of this run that has not failed
    _ended: float = 0.0  #: units expected of those that have ended
    _jobs: dict[str, _AtWork] = field(default_factory=dict)
    _what: str = STARTING
    _failed: int = 0
    _gained: float = 0.0
    _since: float | None = None  #: the first pack began its stream
    _start: float = field(default_factory=time.monotonic)
    _shown: float = -SHOWN_EVERY
    _written: float = -WRITTEN_EVERY

    def __post_init__(self) -> None:
        packs = enumerate(self.plan.packs, 1)
        self._numbers = {trial.fingerprint: number for number, pack in packs for trial in pack.trials}
        self._packs = {pack.name: pack for pack in self.todo}
        self._left = Counter(map(self.number, self.todo))  #: jobs to come of each pack of the plan
        self._tell(time.monotonic(), at_once=True)

    def number(self, pack: Pack) -> int:
        """The place in the plan, from 1, of the pack that this one is, or is a part of."""
        return self._numbers[pack.trials[0].fingerprint]

    def begin(self, units: Callable[[Pack], float]) -> float:
        """The packs begin; ``units`` is the work of each.  All of this run's is given back."""
        self._units = units
        self._expected = {pack.name: units(pack) for pack in self.todo}
        return sum(self._expected.values())

    def report(self, job: str, units: float, what: str, figures: Figures = NO_FIGURES) -> None:
        """What an executor says of a job (:class:`harness.executors.interface.Watch`)."""
        now, over = time.monotonic(), what in (ENDED, FAILED)
        if over:
            self._end(job, failed=what == FAILED)
        else:
            at_work = self._jobs.setdefault(job, _AtWork())
            gained = at_work.take(units, what, figures, now)
            if job in self._packs:
                self._gained += gained
                if at_work.began is not None and self._since is None:
                    self._since = now
            self._what = what
        self._tell(now, at_once=over and not self._packs)

    def _end(self, job: str, failed: bool) -> None:
        self._jobs.pop(job, None)
        pack = self._packs.pop(job, None)
        if pack is None:
            return
        parts = halves(pack) if failed else ()
        expected = self._expected.pop(job, 0.0)
        self._ended += 0.0 if parts else expected
        self._failed += len(pack.trials) if failed and not parts else 0
        self._left[self.number(pack)] += len(parts) - 1
        for part in parts:  # tried once all others are through
            self._packs[part.name] = part
            self._expected[part.name] = self._units(part) if self._units else 0.0

    # -- what is shown --------------------------------------------------------------------------------------------

    def _tell(self, now: float, at_once: bool) -> None:
        shown, written = now - self._shown >= SHOWN_EVERY, now - self._written >= WRITTEN_EVERY
        if not (shown or written or at_once):
            return
        standing = self.standing(now)
        if shown or at_once:
            self._shown = now
            self.show(standing)
        if written or at_once:
            self._written = now
            write_standing(self.folder, standing)

    def standing(self, now: float) -> Standing:
        todo = sum(left > 0 for left in self._left.values())
        return Standing(
            study=self.plan.study.name,
            device=self.device,
            packs=len(self.plan.packs),
            done=len(self.plan.packs) - todo,
            failed=self._failed,
            what=self._what,
            share=self._share(),
            seconds_spent=now - self._start,
            seconds_left=self._seconds_left(now),
            jobs=tuple(self._job(name, job, now) for name, job in self._jobs.items()),
        )

    def _done(self) -> float:
        """Units, at most what is expected of each job."""
        jobs = self._jobs.items()
        return self._ended + sum(min(job.units, self._expected.get(name, 0.0)) for name, job in jobs)

    def _all(self) -> float:
        return self._ended + sum(self._expected.values())

    def _share(self) -> float | None:
        return self._done() / total if (total := self._all()) else None

    def _seconds_left(self, now: float) -> float | None:
        units = self._all() - self._done()
        if self._ended and units <= 0 and not self._jobs:
            return 0.0
        if self._since is None or self._gained <= 0:
            return None
        left = units * (now - self._since) / self._gained
        each = (job.seconds_left(self._expected.get(name, 0.0), now) for name, job in self._jobs.items())
        return max(left, *(seconds for seconds in each if seconds is not None), 0.0)

    def _job(self, name: str, job: _AtWork, now: float) -> JobStanding:
        pack, expected = self._packs.get(name), self._expected.get(name, 0.0)
        return JobStanding.model_validate(
            {
                **job.figures,
                "name": name,
                "number": self.number(pack) if pack else None,
                "trials": len(pack.trials) if pack else 0,
                "what": job.what,
                "share": min(1.0, job.units / expected) if expected else None,
                "seconds_left": job.seconds_left(expected, now) if expected else None,
            }
        )

    def close(self) -> None:
        """The run is over, however it ended."""
        remove_standing(self.folder)
