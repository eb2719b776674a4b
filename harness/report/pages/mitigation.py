"""The page of a mitigation: mitigation.html and mitigation.md beside its scores, from their rows alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.report.numbers import NOTHING, number, percent, plural, points
from harness.report.pages.render import write_pair
from harness.report.text.mitigation import SCALED, mitigation_table
from harness.report.text.table import Table

CAPTION = (
    "What is recovered and lost",
    "Change against the same adapter as trained, by the part of the intruder dimensions that is kept; mean over the "
    "trials of an arm. Dashed: the control, which shrinks all of ΔW to the same size.",
)
NOTES = (
    "trained has the scores of the trial's record, rescored those of the same adapter among its variants: what they "
    "change is against that.",
    "mitigated scales intruder dimensions of W0 + ΔW, control shrinks all of ΔW by one factor to the same Frobenius "
    "norm: the two differ in nothing but where the change was taken away.",
    "The part kept is what is left of them: 0 takes them away, 1 leaves them.",
)


@dataclass(frozen=True)
class About:
    """What was mitigated."""

    study: str
    which: str  #: intruders of every matrix: ``first`` or ``all``
    keeps: tuple[float, ...]
    trials: int  #: that were looked at; those without intruder dimensions have no rows
    left_out: tuple[str, ...] = ()  #: why others were not
    trial: str | None = None  #: its fingerprint, where it was one alone


def write_mitigation_page(rows: Sequence[Mapping[str, Any]], about: About, folder: Path) -> list[Path]:
    """Write the pages of these rows, of at least one trial, whose figure lies in ``folder/figures``."""
    table = mitigation_table(about.which, rows)
    touched = len({row["trial"] for row in rows})
    what = "all of its trials" if about.trial is None else f"its trial {about.trial[:12]}"
    context = {
        "title": f"{about.study}: intruder dimensions scaled",
        "lead": f"{SCALED[about.which][0].upper()}{SCALED[about.which][1:]} of every matrix, of {what}.",
        "verdict": [table.caption, f"{touched} of {plural(about.trials, 'trial')} have intruder dimensions."],
        "glance": Table(table.heading, table.columns, table.rows),
        "notes": [*NOTES, *(f"Left out: {reason}" for reason in about.left_out)],
        "tables": [_variants(rows)],
        "command": _command(about),
    }
    return write_pair("mitigation", context, {"mitigation": CAPTION}, folder)


def _variants(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        "Every variant",
        ["Method", "Order", "Seed", "Kind", "Part kept", "Matrices", "Directions", "Intruders", "‖ΔW‖",
         "Average accuracy, %", "Last task, %", "Forgetting, points", "Probes Δ, points"],
        caption="Matrices that were touched, and directions that were scaled in them. Scores of each task: scores.csv.",
    )  # fmt: skip
    for row in rows:
        table.rows.append([
            str(row["arm"]), str(row["order"]), str(row["seed"]), str(row["kind"]), number(row["keep"], 2),
            number(row.get("matrices"), 0), number(row.get("directions"), 0), number(row.get("intruder_count"), 0),
            number(row.get("delta_norm"), 3),
            percent(row.get("average_accuracy")), percent(row.get("last_task_accuracy")),
            NOTHING if row.get("forgetting") is None else number(row["forgetting"], 1, 100),
            points(row.get("general_delta")),
        ])  # fmt: skip
    return table


def _command(about: About) -> str:
    words = ["lorabench", "mitigate", about.trial or about.study]
    words += ["--study", about.study] if about.trial else []
    words += ["--which", about.which, "--keep", ",".join(f"{keep:g}" for keep in about.keeps)]
    return " ".join(map(shlex.quote, words))
