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
from harness.study.plan import PlannedTrial

#: Scores that are shown, with their headings: shares, in per cent or points.
SCORES = {"average_accuracy": "average accuracy, %", "learning_accuracy": "learning accuracy, %",
          "forgetting": "forgetting, points"}  # fmt: skip
#: Characters of a fingerprint and of a commit.
DIGITS = 12


@dataclass(frozen=True)
class Listed:
    """A trial that has a record, or is only planned."""

    spec: TrialSpec
    fingerprint: str
    record: TrialRecord | None

    @property
    def row(self) -> dict[str, Any]:
        """What there is to say of it, as plain data; its scores are null where it has none."""
        spec, record = self.spec, self.record
        scores = _scores(record) if record and record.status == "ok" else {}
        return {
            "trial": self.fingerprint, "arm": spec.arm, "order": spec.order, "seed": spec.seed,
            "status": record.status if record else "missing", **{name: scores.get(name) for name in SCORES},
            "commit": record.commit if record else None, "failure": record.failure.message
            if record and record.failure else None,
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


def listed(readout: Readout, planned: Sequence[PlannedTrial]) -> list[Listed]:
    """Every trial that has a record or is planned, by arm in the study's order, then order and seed."""
    rows = [Listed(record.spec, record.fingerprint, record) for record in readout.records]
    have = {record.fingerprint for record in readout.records}
    rows += [Listed(trial.spec, trial.fingerprint, None) for trial in planned if trial.fingerprint not in have]
    arms = list(readout.expected or dict.fromkeys(trial.spec.arm for trial in planned))
    place = {arm: number for number, arm in enumerate(arms)}

    def key(each: Listed) -> tuple[Any, ...]:
        spec = each.spec
        return place.get(spec.arm, len(place)), spec.arm, spec.order, spec.seed, each.fingerprint

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


def _cells(row: Mapping[str, Any]) -> list[str]:
    scores = ["-" if row[name] is None else f"{100 * row[name]:.1f}" for name in SCORES]
    commit = (row["commit"] or "-")[:DIGITS]
    return [row["arm"], row["order"], str(row["seed"]), row["trial"][:DIGITS], row["status"], *scores, commit]
