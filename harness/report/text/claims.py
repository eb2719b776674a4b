"""What sources claim, beside what the study finds."""

from __future__ import annotations

from harness.report.findings import RULE, Finding, finding
from harness.report.study import StudyResults
from harness.report.text.table import Table
from harness.store.source_claims import SourceClaim

HEADING = "What sources claim, and what is found here"
#: Of a claim, before what is found.
STATED = ["Claim", "Their number", "Their model", "Their protocol", "Source"]


def stated(claim: SourceClaim) -> list[str]:
    """The cells of :data:`STATED`."""
    return [claim.claim, claim.number, claim.model, claim.protocol, claim.source]


def tested_by(claim: SourceClaim, found: Finding) -> str:
    """What was asked of the records, and what this bench does otherwise than the source."""
    return f"{found.compared}. {claim.differs}" if claim.differs else found.compared


def claims_tables(study: StudyResults) -> list[Table]:
    """One row a claim; no table where the study names none."""
    if not study.claims:
        return []
    table = Table(HEADING, [*STATED, "Tested here", "Found [95 % CI]", "Verdict"], caption=RULE, prose=True)
    for claim in study.claims:
        found = finding(study, claim)
        table.rows.append([*stated(claim), tested_by(claim, found), found.found, found.answer])
    return [table]
