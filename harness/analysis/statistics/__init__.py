"""Intervals and tests over trials, and over test items.  What is undefined is None, never NaN, but in arrays.

``strata`` has means with t intervals, ``paired`` differences of arms, ``block`` the noise that all arms share,
``groups`` arms that can't be told apart, ``multiplicity`` many tests at once, ``items`` changes over test items.  What
works on arrays takes stacks of boards, so that ``lorabench perf statistics`` can try it on thousands.
"""

from harness.analysis.statistics.block import Residual, block_residual, refusal
from harness.analysis.statistics.groups import Groups, tie_groups
from harness.analysis.statistics.items import PairedChange, jackknife_error, paired_change
from harness.analysis.statistics.multiplicity import LEAST_SEEDS, LEVEL, holm, holm_ps
from harness.analysis.statistics.paired import (
    Paired,
    ends_among,
    minimum_detectable_effect,
    paired_difference,
    paired_differences,
)
from harness.analysis.statistics.sign_flip import LEAST_PAIRS, sign_flip_p, sign_flip_ps
from harness.analysis.statistics.strata import (
    FROM_ZERO,
    SHARE,
    SHARES_APART,
    Estimate,
    Scale,
    inside,
    interquartile_mean,
    moments,
    stratified_mean,
    with_ends,
)

__all__ = [
    "FROM_ZERO",
    "LEAST_PAIRS",
    "LEAST_SEEDS",
    "LEVEL",
    "SHARE",
    "SHARES_APART",
    "Estimate",
    "Groups",
    "Paired",
    "PairedChange",
    "Residual",
    "Scale",
    "block_residual",
    "ends_among",
    "holm",
    "holm_ps",
    "inside",
    "interquartile_mean",
    "jackknife_error",
    "minimum_detectable_effect",
    "moments",
    "paired_change",
    "paired_difference",
    "paired_differences",
    "refusal",
    "sign_flip_p",
    "sign_flip_ps",
    "stratified_mean",
    "tie_groups",
    "with_ends",
]  # fmt: skip
