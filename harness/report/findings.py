"""What a study's records say of the claims of sources: differences and correlations, and a verdict by one rule."""

from __future__ import annotations

from dataclasses import dataclass

from harness.analysis.statistics import ends_among
from harness.report import metrics
from harness.report.arms import Arm, same_matrices
from harness.report.estimates import certain
from harness.report.gaps import gap_of
from harness.report.metric import Metric
from harness.report.numbers import NOTHING, interval, joined, listed, number, plural
from harness.report.study import StudyResults
from harness.report.within_arms import correlation_of, points_of
from harness.store.source_claims import SourceClaim

AGREE, DISAGREE, UNSURE, NOT_RUN, UNTESTED = "agree", "disagree", "can't tell", "not run", "not tested"

#: What the verdicts mean, for pages and docs.
RULE = (
    "Agree: the 95 % interval of the paired difference, or of Spearman's rho, leaves out 0 on the claimed side. "
    "Disagree: it leaves out 0 on the other side. Of a claim that arms are the same within so many points: agree where "
    "the interval lies wholly within them, disagree where it lies wholly outside. Else the verdict is: can't tell; "
    "so it is of an arm that is not ranked, of mixed trials, and of untuned arms where the claim is of tuned ones. "
    "A claim of several arms holds where it holds for each, and fails where it fails for one by an interval that is "
    "widened for their number (Bonferroni). What is said to be possible can't be refuted by one study. Not run: arms "
    "are missing. A size that is claimed changes no verdict, and the verdict says where the interval leaves it out. "
    "Verdicts are of each claim by itself: among many, one in forty goes wrong to each side by chance."
)


@dataclass(frozen=True)
class Finding:
    """What a study says of a claim."""

    compared: str  #: what was asked of the records
    found: str  #: mean or rho with its interval, and how many trials; of several arms one after another
    verdict: str
    remark: str = ""  #: why the verdict is not another, or how the size compares

    @property
    def answer(self) -> str:
        """The verdict with its remark."""
        return f"{self.verdict}: {self.remark}" if self.remark else self.verdict


@dataclass(frozen=True)
class _Part:
    """The same of one of the arms of a claim of differences."""

    arm: str
    against: str
    found: str
    verdict: str
    remark: str = ""


def finding(study: StudyResults, claim: SourceClaim) -> Finding:
    """What the study's records say of a claim."""
    if claim.needs:
        return Finding(NOTHING, NOTHING, UNTESTED, f"needs {claim.needs}")
    if claim.correlation:
        return _correlated(study, claim)
    parts = [_part(study, claim, name) for name in claim.arm]
    against = listed(list(dict.fromkeys(part.against for part in parts)))
    metric = metrics.metric(claim.outcome or "")
    unit = f", {metric.unit_of_difference}" if metric.unit_of_difference else ""
    compared = f"{listed(claim.arm)} − {against}: {metric.title}{unit}"
    if len(parts) == 1:
        return Finding(compared, parts[0].found, parts[0].verdict, parts[0].remark)
    found = "; ".join(f"{part.arm} {part.found}" for part in parts if part.found != NOTHING)
    verdict = _of_all([part.verdict for part in parts])
    why = [f"{part.arm}{f' ({part.remark})' if part.remark else ''}" for part in parts if part.verdict == verdict]
    return Finding(compared, found or NOTHING, verdict, "" if verdict == AGREE else listed(why))


def verdict_of(claim: SourceClaim, low: float | None, high: float | None) -> str:
    """By :data:`RULE`, of an interval in the unit of the claim."""
    if low is None or high is None:
        return UNSURE
    if claim.direction == "same":
        within = claim.within or 0.0
        if -within <= low and high <= within:
            return AGREE
        return DISAGREE if low > within or high < -within else UNSURE
    low, high = sorted((claim.sign * low, claim.sign * high))
    if low > 0:
        return AGREE
    return DISAGREE if high < 0 and not claim.possible else UNSURE


def _part(study: StudyResults, claim: SourceClaim, name: str) -> _Part:
    """What the records say of one arm of a claim of differences."""
    arm = study.named(name)
    other = study.named(claim.against) if claim.against else study.partner(arm) if arm else study.reference
    against = claim.against or (other.name if other else "the reference")
    if missing := [known for known, each in ((name, arm), (against, other)) if each is None or not each.trials]:
        return _Part(name, against, NOTHING, NOT_RUN, f"no trials of {listed(missing)}")
    arm, other = certain(arm), certain(other)
    metric = metrics.metric(claim.outcome or "")
    gap = gap_of(arm, other, metric.name)
    if gap is None:
        return _Part(name, against, NOTHING, UNSURE, "no pairs of trials have this number")
    found = f"{joined(metric.change(gap.mean), interval(gap.estimate, metric.change))}, {plural(gap.pairs, 'pair')}"
    if why := _unfit(study, claim, metric, (arm, other)):
        return _Part(name, against, found, UNSURE, why)
    if gap.low is None or gap.high is None:
        return _Part(name, against, found, UNSURE, "the pairs give no interval")
    ends = gap.low * metric.scale, gap.high * metric.scale
    verdict = verdict_of(claim, *ends)
    if verdict == DISAGREE and len(claim.arm) > 1:
        wide = ends_among(gap, len(claim.arm)) or (gap.low, gap.high)
        verdict = verdict_of(claim, *(end * metric.scale for end in wide))
    return _Part(name, against, found, verdict, _size(claim, verdict, *ends))


def _unfit(study: StudyResults, claim: SourceClaim, metric: Metric, arms: tuple[Arm, Arm]) -> str:
    """Why a difference decides nothing; empty where it may."""
    reasons = [f"{arm.name} is not ranked ({why})" for arm in arms if (why := arm.why_not_ranked())]
    if study.mixtures:
        reasons.append("these trials are mixed")
    if metric.of_matrices and not same_matrices(*arms):
        reasons.append("the arms adapt different matrices")
    if claim.tuned and (left := [arm.name for arm in arms if not arm.tuned]):
        reasons.append(f"untuned: {listed(left)}")
    return "; ".join(reasons)


def _correlated(study: StudyResults, claim: SourceClaim) -> Finding:
    """Rank correlation of intruder dimensions and forgetting over all trials, as the page has it."""
    compared = f"Spearman's rho of intruder {claim.correlation} and forgetting, over all trials"
    points = points_of(study)
    if not points:
        return Finding(compared, NOTHING, NOT_RUN, "no trial has both")
    rho = correlation_of(points, claim.correlation or "")
    if rho is None:
        return Finding(compared, NOTHING, UNSURE, "too few trials, or all have as many")
    found = f"{number(rho.rho, 2)} [{number(rho.low, 2)}, {number(rho.high, 2)}], {plural(rho.n, 'trial')}"
    reasons = ["these trials are mixed"] if study.mixtures else []
    reasons += ["trials are missing"] if study.partial else []
    untuned = [arm.name for arm in study.arms if arm.trains and not arm.tuned] if claim.tuned else []
    reasons += [f"untuned: {listed(untuned)}"] if untuned else []
    if reasons:
        return Finding(compared, found, UNSURE, "; ".join(reasons))
    verdict = verdict_of(claim, rho.low, rho.high)
    return Finding(compared, found, verdict, _size(claim, verdict, rho.low, rho.high))


def _size(claim: SourceClaim, verdict: str, low: float, high: float) -> str:
    """How an interval lies to the claimed size, or to what is possible; empty where there is nothing to say."""
    if not claim.sign:
        return ""
    low, high = sorted((claim.sign * low, claim.sign * high))
    if claim.possible and high < 0:
        return "the opposite here, which what is only possible allows"
    if verdict == DISAGREE:
        return ""
    if claim.least is not None and high < claim.least:
        return "less than claimed"
    if claim.most is not None and low > claim.most:
        return "more than claimed"
    return ""


def _of_all(verdicts: list[str]) -> str:
    """Of a claim of several arms."""
    for each in (DISAGREE, NOT_RUN, UNSURE):
        if each in verdicts:
            return each
    return AGREE
