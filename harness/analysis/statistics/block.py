"""One variance for all arms: the residual of a design in randomised blocks.

A block is an order with a seed: there every arm meets the same data.  What is left of a score without its arm's mean
and its block's mean, both within the order, is noise; where it is alike in all arms, all of them estimate it together,
with many more degrees of freedom than the pairs of two arms have.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from harness.analysis.statistics.multiplicity import LEVEL
from harness.analysis.statistics.strata import combined, rows_of

#: Two arms have no more noise to share than their own difference has.
LEAST_ARMS = 3


@dataclass(frozen=True)
class Residual:
    """Of m boards of the same arms and blocks."""

    errors: np.ndarray  #: [*m]: standard error of the difference between two arms' means
    df: np.ndarray  #: [*m]: its Welch-Satterthwaite degrees of freedom over the orders; NaN where the error is 0
    p_alike: np.ndarray  #: [*m]: of the test that all arms have one variance; NaN where the residual is 0

    @property
    def usable(self) -> np.ndarray:
        """[*m]: whether there is noise, and the test does not reject that all arms have the same."""
        return (self.errors > 0) & (self.p_alike >= LEVEL)

    def half_widths(self, confidence: float = 0.95) -> np.ndarray:
        """How far the interval of a difference between two arms reaches to each side, [*m]."""
        return stats.t.ppf((1 + confidence) / 2, self.df) * self.errors


def refusal(arms: int, strata: Sequence[Hashable]) -> str:
    """Why such a design has no residual of its own; empty where it has one."""
    if arms < LEAST_ARMS:
        return f"it takes {LEAST_ARMS} trained arms that ran the same orders and seeds"
    if min((len(rows) for rows in rows_of(strata)), default=0) < 2:
        return "an order with a single seed has one block, which shows no noise"
    return ""


def block_residual(values: np.ndarray, strata: Sequence[Hashable]) -> Residual:
    """Of boards [n, arms, *m], whose blocks are n rows in fixed strata.

    The variance of an order's residual is its own, as in :func:`strata.moments`.  Whether the arms are alike is asked
    of the residuals in units of their order's deviation.  Raises ``ValueError`` for a design that ``refusal`` refuses.
    """
    groups, arms = rows_of(strata), values.shape[1]
    if why := refusal(arms, strata):
        raise ValueError(f"no block residual: {why}")
    parts, dfs, standardised = [], [], []
    for rows in groups:
        data = values[rows]
        left = data - data.mean(axis=0) - data.mean(axis=1, keepdims=True) + data.mean(axis=(0, 1))
        df = (arms - 1) * (len(rows) - 1)
        variance = (left**2).sum(axis=(0, 1)) / df
        parts.append(2 * variance / (len(groups) ** 2 * len(rows)))
        dfs.append(df)
        standardised.append((left**2).sum(axis=0) / np.where(variance > 0, variance, np.nan))
    errors, df = combined(parts, dfs)
    within = len(values) - len(groups)
    return Residual(errors, df, bartlett_ps(np.sum(standardised, axis=0) / within, within))


def bartlett_ps(variances: np.ndarray, df: int) -> np.ndarray:
    """p [*m] of Bartlett's test that the variances [arms, *m], each with ``df`` degrees of freedom, are equal.

    ``scipy.stats.bartlett``, against which it is tested, takes samples, whose degrees of freedom it would miscount.
    """
    arms = len(variances)
    with np.errstate(divide="ignore"):  # an arm without spread is unlike any other
        statistic = arms * df * np.log(variances.mean(axis=0)) - df * np.log(variances).sum(axis=0)
    return stats.chi2.sf(statistic / (1 + (arms + 1) / (3 * arms * df)), arms - 1)
