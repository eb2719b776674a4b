"""What a metric is: where its number comes from, how it is written, what is claimed of it and where it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from harness.analysis.statistics import Scale
from harness.report.numbers import number

#: The tables of the report that metrics stand in, in the order of the page; main is the board itself, and tests what
#: stands on it behind a toggle.
TABLES = ("main", "tests", "more", "costs")


@dataclass(frozen=True)
class Metric:
    """A metric, declared once; everything that shows it asks here.

    ``value`` returns None where the metric has no meaning or is not known.  What it gets depends on ``of``:

    - ``trial``: the :class:`harness.report.evidence.Evidence` of a finished trial;
    - ``probe``: the scores of one probe; the name has ``<probe>`` where the probe's stands;
    - ``weights``: the :class:`harness.store.intruders.Intruders` after a task, of the whole adapter or of one type of
      projection; a trial's number is the one after its last task;
    - ``costs``: the :class:`harness.store.records.Costs` of a trial, finished or not;
    - ``arm``: the :class:`harness.report.arms.Arm`, for numbers that are not means over its trials.
    """

    name: str  #: its column
    title: str  #: in headings, without the unit
    meaning: str  #: for results/README.md, in Markdown
    value: Callable[[Any], float | None]
    of: Literal["trial", "probe", "weights", "costs", "arm"] = "trial"
    better: Literal["higher", "lower", ""] = ""  #: empty where neither is better

    unit: str = ""  #: of the number in tables, which is ``scale`` times that in the CSV files
    note: str = ""  #: in brackets after title and unit
    digits: int = 1
    scale: float = 1.0
    signed: bool = False  #: a + before what is above 0; differences always have it
    spoken: str = ""  #: its name in a sentence, if not the title
    kind: str = ""  #: name in a sentence that covers it and similar metrics, if they share one

    tested: Literal["primary", "secondary", ""] = ""  #: against the reference, with Holm within each outcome
    ends: Scale = (None, None)  #: of what it can be: intervals end there
    shared: bool = False  #: a pack's, divided by its trials or whole: such trials are no sample of it
    of_matrices: bool = False  #: counted in the adapted matrices: arms that adapt different ones are not compared
    answered: bool = False  #: the answer at the top of the page reports its test

    first: int = 0  #: place among the promised first columns of leaderboard.csv; 0 for other metrics
    interval: bool = False  #: its interval has columns in leaderboard.csv
    table: Literal["main", "tests", "more", "costs", ""] = ""
    place: int = 99  #: in its table; metrics of the same place stand in the order of declaration
    compared: bool = False  #: by ``lorabench compare``
    indexed: bool = False  #: on the page over all studies
    audited: bool = False  #: for an audited sequence of adapters; ``value`` must need the accuracy matrix only

    @property
    def heading(self) -> str:
        unit, note = f", {self.unit}" if self.unit else "", f" ({self.note})" if self.note else ""
        return f"{self.title}{unit}{note}"

    @property
    def apart(self) -> Scale:
        """The ends of a difference between two of it."""
        low, high = self.ends
        return (None, None) if low is None or high is None else (low - high, high - low)

    @property
    def name_in_sentence(self) -> str:
        return self.spoken or self.title.lower()

    @property
    def unit_of_difference(self) -> str:
        return "points" if self.unit == "%" else self.unit

    def text(self, value: float | None) -> str:
        """A value as it is written, without its unit."""
        return number(value, self.digits, self.scale, sign=self.signed)

    def change(self, value: float | None) -> str:
        """A difference of two values as it is written, without its unit."""
        return number(value, self.digits, self.scale, sign=True)

    def named(self, probe: str) -> str:
        """The column of one probe."""
        return self.name.replace("<probe>", probe)
