"""How long a person waits for the verbs that read results, where these are ten thousand records, and in what memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from harness.perf.common import save
from harness.perf.made_records import MadeStudy, make_study, write_records
from harness.perf.verbs import Cost, cost

#: GiB that no verb may exceed.
MEMORY = 0.6


@dataclass(frozen=True)
class Verb:
    """A verb, and in how many seconds it must answer with 10,000 records on two cores; None: as long as it takes."""

    words: tuple[str, ...]
    seconds: float | None = None


#: In the order in which they run.  Nothing was noted of the records before the first.
VERBS: Mapping[str, Verb] = {
    "status, first time": Verb(("status",)),
    "status": Verb(("status",), 3),
    "plan": Verb(("plan",), 5),
    "report": Verb(("report",), 60),
    "run, nothing to do": Verb(("run",), 8),
}
STALE = "status, all stale"


def main(records: int, out: Path) -> list[str]:
    """Make so many records and time each verb on them; returns what was over its budget, in words.

    Budgets are those of a machine with two cores that does nothing else.
    """
    costs = {}
    with _folder() as folder:
        made = make_study(folder, records)
        count = write_records(made)
        cost(["plan", str(made.file), f"--out={made.results}"])  # tries the model out, once
        shutil.rmtree(folder / "cache" / "records", ignore_errors=True)
        print(f"{count} records made", flush=True)
        for name, verb in VERBS.items():
            costs[name] = _timed(name, verb, made)
        _edit(made)
        costs[STALE] = _timed(STALE, Verb(("status",)), made)
    broken = _broken(costs)
    found = {name: asdict(value) for name, value in costs.items()}
    save(out, "records", torch.device("cpu"), {"records": count, "verbs": found, "over_budget": broken})
    return broken


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for study, records and cache, which this process and the verbs are told of, and which is removed."""
    folder = Path(tempfile.mkdtemp(prefix="lorabench-records-"))
    before = dict(os.environ)
    os.environ |= {"LORABENCH_CACHE": str(folder / "cache"), "LORABENCH_PLUGINS": str(folder / "plugins")}
    try:
        yield folder
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder)


def _timed(name: str, verb: Verb, made: MadeStudy) -> Cost:
    taken = cost([*verb.words, str(made.file), f"--out={made.results}"])
    budget = "" if verb.seconds is None else f"  (at most {verb.seconds:g})"
    numbers = f"seconds {taken.seconds:6.2f}  cpu {taken.cpu_seconds:6.2f}  peak GiB {taken.peak_gib:.2f}"
    print(f"{name:20}{numbers}{budget}", flush=True)
    return taken


def _edit(made: MadeStudy) -> None:
    """Another budget of training: no record fits the study any more."""
    made.file.write_text(made.file.read_text(encoding="utf-8").replace("examples: 512", "examples: 504"))


def _broken(costs: Mapping[str, Cost]) -> list[str]:
    slow = [
        f"{name}: {taken.seconds:.1f} s, at most {VERBS[name].seconds:g}"
        for name, taken in costs.items()
        if name in VERBS and taken.seconds > (VERBS[name].seconds or float("inf"))
    ]
    return slow + [f"{n}: {c.peak_gib:.2f} GiB, at most {MEMORY:g}" for n, c in costs.items() if c.peak_gib > MEMORY]
