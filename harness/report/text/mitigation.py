"""What a mitigation says about cause, as a table: do intruder dimensions make a trial forget, or the size of dW?

A correlation over trials can't tell.  Scaling the intruders against shrinking all of dW to the same size can: the two
differ in nothing but where the change was taken away.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.analysis.statistics import Paired, paired_difference
from harness.report.mitigation import Effects, effects, read_mitigation
from harness.report.numbers import NOTHING, interval, number, plural, points
from harness.report.study import StudyResults
from harness.report.text.intruders import intruder_tables
from harness.report.text.table import Table

#: Folder below ``mitigation`` -> what is scaled of every matrix.
SCALED = {"first": "the first intruder dimension", "all": "all intruder dimensions"}
RECOVERED, LOST = "forgetting recovered", "accuracy lost"
EVERY = "every arm"
#: By what is tested: (order, seed) -> change, mean over arms.
Values = Mapping[tuple[str, int], float]


def cause_tables(study: StudyResults, folder: Path) -> list[Table]:
    """What the study says of intruder dimensions and forgetting: what goes together, then what is the cause."""
    mitigated = mitigation_tables(study, folder)
    return [*intruder_tables(study, tested=bool(mitigated)), *mitigated]


def mitigation_tables(study: StudyResults, folder: Path) -> list[Table]:
    """A table for each whole-study mitigation that lies in the results ``folder`` and is of its records."""
    fingerprints = [record.fingerprint for record in study.records]
    found = {which: read_mitigation(folder / "mitigation" / which, fingerprints) for which in SCALED}
    return [mitigation_table(which, rows) for which, rows in found.items() if rows]


def mitigation_table(which: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """By arm and part kept: what scaling and shrinking recover and cost; the verdict is its caption."""
    each = effects(rows)
    keeps = sorted({keep for _, _, keep, _ in each})
    arms = sorted({arm for arm, *_ in each})
    table = Table(
        f"Mitigation: {SCALED[which]} of every matrix scaled",
        ["Method", "Part kept", "Forgetting recovered, points", "… by a shrink of the same size",
         "Difference [95 % CI]", "Accuracy lost on the last task", "… by the shrink", "Difference [95 % CI]", "Trials"],
        caption=f"{verdict(which, each)} Change from the same adapter as trained, scored beside its variants, which "
        f"forgot {_forgotten(rows)} points; all scores: mitigation/{which}/scores.csv.",
    )  # fmt: skip
    for arm in (*arms, *([EVERY] if len(arms) > 1 else [])):
        for keep in keeps:
            table.rows.append(_line(each, arm, arms if arm == EVERY else [arm], keep))
    return table


def _line(each: Effects, name: str, arms: Sequence[str], keep: float) -> list[str]:
    cells = [name, number(keep, 2)]
    count = 0
    for quantity in (RECOVERED, LOST):
        scaled, shrunk = (pooled(each, arms, kind, [keep], quantity) for kind in ("mitigated", "control"))
        gap = paired_difference(scaled, shrunk)
        cells += [points(_mean(scaled)), points(_mean(shrunk)), _difference(gap)]
        count = max(count, sum(len(each.get((arm, "mitigated", keep, quantity), ())) for arm in arms))
    return [*cells, str(count)]


def _mean(values: Values) -> float | None:
    return fmean(values.values()) if values else None


def _difference(gap: Paired | None) -> str:
    return NOTHING if gap is None else f"{points(gap.mean)} {_ends(gap)}".strip()


def _ends(gap: Paired) -> str:
    return interval(gap.estimate, points)


def pooled(each: Effects, arms: Sequence[str], kind: str, keeps: Sequence[float], quantity: str) -> Values:
    """Mean over arms and parts kept, by order and seed: arms of one order and seed share their data."""
    values: dict[tuple[str, int], list[float]] = defaultdict(list)
    for arm in arms:
        for keep in keeps:
            for key, change in each.get((arm, kind, keep, quantity), {}).items():
                values[key].append(change)
    return {key: fmean(list_of) for key, list_of in values.items()}


def _forgotten(rows: Sequence[Mapping[str, Any]]) -> str:
    """Forgetting of the trials as recorded, mean."""
    known = [row["forgetting"] for row in rows if row["kind"] == "trained" and row.get("forgetting") is not None]
    return number(fmean(known), 1, 100) if known else NOTHING


def verdict(which: str, each: Effects) -> str:
    """Whether the intruders cause forgetting, in words; one test, over the mean of all arms and all parts below 1."""
    arms, keeps = sorted({key[0] for key in each}), sorted({key[2] for key in each if key[2] < 1})
    scaled, shrunk = (pooled(each, arms, kind, keeps, RECOVERED) for kind in ("mitigated", "control"))
    gap = paired_difference(scaled, shrunk)
    if gap is None:
        return "Whether intruder dimensions cause forgetting can't be said: no variant below 1 could be scored."
    size = f"{points(gap.mean)} points {_ends(gap)}".strip() + f" over {plural(gap.pairs, 'pair')} of order and seed"
    what = f"scaling {SCALED[which]} of every matrix"
    if gap.low is None or gap.high is None:
        return f"Whether intruder dimensions cause forgetting is not tested: {what} recovers {size} more than a shrink."
    if gap.low > 0:
        said = f"{what} recovers more than shrinking all of ΔW to the same size: {size}. They cause a part of it, "
        said += "beyond what the size of the update explains"
    elif gap.high < 0:
        said = f"{what} recovers less than shrinking all of ΔW to the same size: {size}. Forgetting comes from the "
        said += "rest of the update rather than from them"
    else:
        said = f"{what} can't be told apart from shrinking all of ΔW to the same size: {size}. That they cause "
        said += "forgetting, rather than the size of the update, is not shown"
    scaled, shrunk = (pooled(each, arms, kind, keeps, LOST) for kind in ("mitigated", "control"))
    cost = paired_difference(scaled, shrunk)
    spent = f", and costs {_difference(cost)} points more of the last task's accuracy" if cost else ""
    return f"Do intruder dimensions cause forgetting? {said[0].upper()}{said[1:]}{spent}."
