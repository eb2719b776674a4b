"""The table of claims in docs/claims.md: what sources claim, and what committed reference results say of it.

The verdicts are those of :mod:`harness.report.findings`, from the records of every folder of ``results/reference`` that
has the arms; which of them are named, nobody chooses.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.report.findings import NOT_RUN, Finding, finding
from harness.report.numbers import NOTHING
from harness.report.study import StudyResults, gather
from harness.report.text.claims import STATED, stated, tested_by
from harness.store.lean import settled
from harness.store.results import MANIFEST, read_trials
from harness.store.source_claims import SourceClaim, read_claims
from harness.store.tuning import read_tuning

CLAIMS = Path("tasks", "claims")
REFERENCES = Path("results", "reference")
#: Where no reference has the arms.
NONE_YET = "no reference is committed yet"


def claims_table() -> str:
    """The claims of all lists, one row each, in Markdown."""
    references = list(_references())
    headings = ["List", *STATED, "Tested by", "Found [95 % CI], in the reference", "Verdict"]
    lines = [_line(headings), "|" + "---|" * len(headings)]
    for file in sorted(CLAIMS.glob("*.yaml")):
        lines += [_line([f"`{file.stem}`", *_cells(claim, references)]) for claim in read_claims(file)]
    return "".join(f"{line}\n" for line in lines)


def _references() -> Iterator[tuple[str, StudyResults]]:
    """The committed results by name, in order."""
    for manifest in sorted(REFERENCES.glob(f"*/{MANIFEST}")):
        folder = manifest.parent
        with settled():
            readout = read_trials(folder, lean=True)
            yield folder.name, gather(readout, where=str(folder), tuning=read_tuning(folder))


def _cells(claim: SourceClaim, references: list[tuple[str, StudyResults]]) -> list[str]:
    """Of a claim, with a line for each reference that says something of it."""
    each = [(name, finding(study, claim)) for name, study in references]
    known = [(name, found) for name, found in each if found.verdict != NOT_RUN]
    # What would be asked does not depend on the board, but for whom an arm is compared with.
    asked = known[0][1] if known else each[0][1] if each else Finding(NOTHING, NOTHING, NOT_RUN)
    front = [*stated(claim), tested_by(claim, asked)]
    if claim.needs:
        return [*front, NOTHING, asked.answer]
    if not known:
        return [*front, NONE_YET, NOT_RUN]
    found = "<br>".join(f"{found.found} (`{name}`)" for name, found in known)
    return [*front, found, "<br>".join(f"{found.answer} (`{name}`)" for name, found in known)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
