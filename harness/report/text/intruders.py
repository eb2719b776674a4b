"""What a study says of intruder dimensions and forgetting, as a table with a verdict in words."""

from __future__ import annotations

from harness.analysis.correlation import Slope
from harness.report.figures.intruders_at_end import LABELS
from harness.report.figures.intruders_forgetting import rho_with_ends
from harness.report.numbers import NOTHING, number
from harness.report.study import StudyResults
from harness.report.text.table import Table
from harness.report.within_arms import correlation_of, points_of, slope_of


def intruder_tables(study: StudyResults, tested: bool) -> list[Table]:
    """A table where trials of one arm differ in their number of intruders; else there is nothing to say.

    ``tested``: there is a mitigation, whose verdict on cause stands below.
    """
    points = points_of(study)
    slopes = {measure: slope_of(points, measure) for measure in LABELS}
    count = slopes["count"]
    if count is None:
        return []
    table = Table(
        "Intruder dimensions and forgetting",
        ["Measure", "Spearman's ρ over all trials [95 % CI]", "Within arms, points an SD [95 % CI]", "Arms", "Trials"],
        caption=f"{verdict(count)} {_cause(study, tested)} The slope is that of forgetting on the measure within arms, "
        "for one standard deviation of it there, with the norm of the change and learning accuracy held; its interval "
        "is by bootstrap over arms.",
    )
    for measure, slope in slopes.items():
        rho = correlation_of(points, measure)
        over = rho_with_ends(rho) if rho else NOTHING
        within = f"{_points(slope.value)} {_ends(slope)}" if slope else NOTHING
        arms = str(slope.arms) if slope else NOTHING
        table.rows.append([f"intruder {measure}", over, within, arms, str(len(points))])
    return [table]


def _points(value: float) -> str:
    return number(value, 2, 100, sign=True)


def _ends(slope: Slope) -> str:
    return f"[{_points(slope.low)}, {_points(slope.high)}]"


def verdict(slope: Slope) -> str:
    """Whether the number of intruders goes with forgetting within arms, in words."""
    size = f"{_points(slope.value)} points {_ends(slope)} for one standard deviation, over {slope.arms} arms"
    if slope.low > 0:
        said = f"Of two trials of one arm that with more intruder dimensions forgets more ({size})"
    elif slope.high < 0:
        said = f"Of two trials of one arm that with more intruder dimensions forgets less ({size})"
    else:
        return (
            f"Do intruder dimensions explain forgetting? Within arms it does not go with their number ({size}): what "
            "goes together between arms may come from anything else in which they differ."
        )
    return f"Do intruder dimensions explain forgetting? {said}, whatever the size of the change and what was learnt."


def _cause(study: StudyResults, tested: bool) -> str:
    if tested:
        return "What they cause is tested by the mitigation below."
    return f"That is no cause yet: `lorabench mitigate {study.name}` tests it."
