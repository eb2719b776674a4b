"""The trials of a study, one a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.analysis import continual
from harness.cli.show.screen import damaged_lines, listing, print_json
from harness.cli.terminal import say
from harness.store.choice import Choice
from harness.store.records import TrialRecord, TrialSpec
from harness.store.results import Readout
from harness.study.plan import Plan
from harness.words import NOTHING, number

#: Scores that are shown, with their headings: shares, in per cent or points.
SCORES = {"average_accuracy": "average accuracy, %", "learning_accuracy": "learning accuracy, %",
          "forgetting": "forgetting, points"}  # fmt: skip
#: The status of a record that the study does not ask for any more.
STALE = "stale"
#: Characters of a fingerprint and of a commit.
DIGITS = 12


@dataclass(frozen=True)
class Listed:
    """A trial that has a record, is planned, or both."""

    spec: TrialSpec
    fingerprint: str
    record: TrialRecord | None
    planned: str | None = None  #: fingerprint of the trial that the study asks for here; None: of none, or not known
    stale: bool = False  #: the study has changed since, and does not ask for this record any more

    @property
    def status(self) -> str:
        return STALE if self.stale else self.record.status if self.record else "missing"

    @property
    def row(self) -> dict[str, Any]:
        """What there is to say of it, as plain data; its scores are null where it has none."""
        spec, record = self.spec, self.record
        scores = _scores(record) if record and record.status == "ok" else {}
        return {
            "trial": self.fingerprint, "arm": spec.arm, "order": spec.order, "seed": spec.seed, "status": self.status,
            **{name: scores.get(name) for name in SCORES}, "commit": record.commit if record else None,
            "failure": record.failure.message if record and record.failure else None, "planned": self.planned,
        }  # fmt: skip


def _scores(record: TrialRecord) -> dict[str, float | None]:
    if not all(record.tasks[task].higher_is_better for task in record.spec.stream):
        return {}
    matrix, sequential = record.matrix(), record.facts.sequential
    return {
        "average_accuracy": continual.average_accuracy(matrix),
        "learning_accuracy": continual.learning_accuracy(matrix) if sequential else None,
        "forgetting": continual.forgetting(matrix) if sequential else None,
    }


def listed(readout: Readout, plan: Plan | None) -> list[Listed]:
    """Every trial that has a record or is planned, by arm and order as the study has them, then by seed.

    A record that the plan does not ask for is stale, and stands in the place of the missing trial of its arm, order and
    seed.  Without a plan nobody knows what is stale or missing.
    """
    have = {record.fingerprint for record in readout.records}
    asked = plan.fingerprints if plan else have
    missing = {_place(trial.spec): trial for trial in plan.trials if trial.fingerprint not in have} if plan else {}
    rows = []
    for record in readout.records:
        stale = record.fingerprint not in asked
        instead = missing.get(_place(record.spec)) if stale else None
        planned = record.fingerprint if plan and not stale else instead.fingerprint if instead else None
        rows.append(Listed(record.spec, record.fingerprint, record, planned, stale))
    shown = {row.planned for row in rows}
    rows += [
        Listed(trial.spec, trial.fingerprint, None, trial.fingerprint)
        for trial in missing.values() if trial.fingerprint not in shown
    ]  # fmt: skip
    return _in_order(
        rows, list(plan.by_arm if plan else readout.expected or ()), list(plan.study.streams) if plan else []
    )


def _place(spec: TrialSpec) -> tuple[str, str, int]:
    return spec.arm, spec.order, spec.seed


def _in_order(rows: Sequence[Listed], arms: Sequence[str], orders: Sequence[str]) -> list[Listed]:
    """As the arms and orders are; those that are not among them come last, by name."""
    arm, order = ({name: number for number, name in enumerate(names)} for names in (arms, orders))

    def key(each: Listed) -> tuple[Any, ...]:
        spec = each.spec
        return (
            arm.get(spec.arm, len(arm)), spec.arm, order.get(spec.order, len(order)), spec.order, spec.seed,
            each.fingerprint,
        )  # fmt: skip

    return sorted(rows, key=key)


def show_trials(
    folder: Path, damaged: Mapping[str, str], trials: Sequence[Listed], choice: Choice, *, as_json: bool
) -> None:
    """A line each, or all of it as JSON."""
    if as_json:
        print_json([each.row for each in trials])
        return
    for line in damaged_lines(damaged):
        say(line, err=True)
    if not trials:
        say(f"{folder}: no trials yet" if choice.is_empty else f"{folder}: no trial is of {choice}", err=True)
        return
    head = ["arm", "order", "seed", "trial", "status", *SCORES.values(), "commit"]
    listing(head, [_cells(each.row) for each in trials], numeric=("seed", *SCORES.values()))
    if any(each.stale for each in trials):
        say(
            "stale: the study has changed since; `lorabench status STUDY` says how, and the next run sets these aside",
            err=True,
        )


def _cells(row: Mapping[str, Any]) -> list[str]:
    scores = [number(row[name], scale=100) for name in SCORES]
    commit = (row["commit"] or NOTHING)[:DIGITS]
    return [row["arm"], row["order"], str(row["seed"]), row["trial"][:DIGITS], row["status"], *scores, commit]
