"""Means over fixed strata, with the t intervals and tests that one standard error gives.  The unit is the trial.

The orders of the tasks are fixed strata: the estimand is the mean over the study's orders, each with the same weight,
and spread between orders is not error.  Every order has a variance of its own, so the degrees of freedom are those of
Welch (1947) and Satterthwaite (1946).  With one order everything here is the ordinary t interval and test.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import special, stats

#: A difference or a spread below this is that of rounding, and is 0.
ROUNDING = 1e-12
#: The ends of what a quantity can be; None where it has no end.
Scale = tuple[float | None, float | None]
#: A share, a difference of two shares, and a count or size.
SHARE: Scale = (0.0, 1.0)
SHARES_APART: Scale = (-1.0, 1.0)
FROM_ZERO: Scale = (0.0, None)


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` trials with its confidence interval, in the unit of the values.

    No interval (None) where there is no standard error, where it is 0, and for two trials of a scale with two ends.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    cut: bool = False  #: the interval reached beyond the scale, and is given up to its end


class Moments(NamedTuple):
    """Of m columns of trials."""

    means: np.ndarray  #: [*m]: the unweighted mean of the strata's means
    errors: np.ndarray  #: [*m]: their standard errors; NaN where a stratum has one value, which has no spread
    df: np.ndarray  #: [*m]: Welch-Satterthwaite degrees of freedom, fractions; NaN where the error is 0 or NaN


def rows_of(strata: Sequence[Hashable]) -> list[np.ndarray]:
    """The rows of each stratum, in the order in which the strata come."""
    rows: dict[Hashable, list[int]] = {}
    for row, label in enumerate(strata):
        rows.setdefault(label, []).append(row)
    return list(map(np.array, rows.values()))


def stratum_weights(strata: Sequence[Hashable]) -> np.ndarray:
    """Weight of each value so that every stratum weighs the same: 1 / (strata x values in its stratum)."""
    return _weights(rows_of(strata), len(strata))


def _weights(groups: Sequence[np.ndarray], n: int) -> np.ndarray:
    weights = np.empty(n)
    for rows in groups:
        weights[rows] = 1.0 / (len(groups) * len(rows))
    return weights


def moments(values: np.ndarray, strata: Sequence[Hashable]) -> Moments:
    """Of columns [n, *m] in the same fixed strata.

    The squared error is sum_h s_h^2 / (k^2 n_h) over the k strata: with as many values in each, that of the pooled
    variance.  Raises ``ValueError`` for a value without a stratum, or one that is not finite.
    """
    data, groups = np.asarray(values, dtype=float), rows_of(strata)
    if len(data) != len(strata) or not np.isfinite(data).all():
        raise ValueError("every value needs a stratum and must be finite")
    means = zeroed(np.tensordot(_weights(groups, len(strata)), data, axes=1))
    if min(map(len, groups)) < 2:
        return Moments(means, np.full_like(means, np.nan), np.full_like(means, np.nan))
    parts = [data[rows].var(axis=0, ddof=1) / (len(groups) ** 2 * len(rows)) for rows in groups]
    return Moments(means, *combined(parts, [len(rows) - 1 for rows in groups]))


def combined(parts: Sequence[np.ndarray], dfs: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(root of the summed variances [*m], their Welch-Satterthwaite df [*m]: NaN where that root is 0)."""
    variance = np.sum(parts, axis=0)
    errors = zeroed(np.sqrt(variance))
    # Scaled, so that no square of a small variance is lost.
    shares = [part / np.where(errors > 0, variance, np.nan) for part in parts]
    return errors, 1.0 / np.sum([share**2 / df for share, df in zip(shares, dfs, strict=True)], axis=0)


def zeroed(values: np.ndarray) -> np.ndarray:
    """The values, 0 where they are so near 0 that only rounding tells them from it."""
    return np.where(np.abs(values) < ROUNDING, 0.0, values)


def half_widths(found: Moments, confidence: float = 0.95) -> np.ndarray:
    """How far a two-sided t interval reaches to each side, [*m]; NaN where there is none."""
    # What stats.t.ppf calls, which takes fifty times as long to look at its arguments.
    return special.stdtrit(found.df, (1 + confidence) / 2) * found.errors


def t_ps(found: Moments) -> np.ndarray:
    """Two-sided p [*m] of the t test that a mean is 0, below 5 % exactly where the 95 % interval leaves 0 out.

    1 for values that are all 0, a tie; NaN where there is no standard error, or where it is 0 and the mean is not.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2.0 * stats.t.sf(np.abs(found.means / found.errors), found.df)
    return np.where((found.errors == 0) & (found.means == 0), 1.0, p)


def stratified_mean(
    values: Sequence[float],
    strata: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    scale: Scale = (None, None),
) -> Estimate | None:
    """Mean and t interval of independent values within fixed strata, see :func:`moments`; None for no values."""
    data = np.asarray(values, dtype=float)
    labels = list(strata) if strata is not None else [0] * len(data)
    if len(labels) == len(data) == 0:
        return None
    found = moments(data, labels)
    return inside(with_ends(float(found.means), float(half_widths(found, confidence)), len(data)), scale)


def with_ends(mean: float, half: float, n: int) -> Estimate:
    """A mean with an interval of this half-width; without one where that is NaN."""
    return Estimate(mean, None, None, n) if np.isnan(half) else Estimate(mean, mean - half, mean + half, n)


def inside(value: Estimate, scale: Scale) -> Estimate:
    """The estimate with its interval cut at the ends of its scale, and none of two values on a scale with two ends.

    The t interval of two values is nine standard deviations to each side: cut, it is most of the scale.  A mean that is
    not inside itself shows that the quantity has another scale, and nothing is cut.
    """
    low, high = scale
    bottom, top = -np.inf if low is None else low, np.inf if high is None else high
    if value.low is None or value.high is None or not bottom <= value.mean <= top:
        return value
    if value.n <= 2 and low is not None and high is not None:
        return replace(value, low=None, high=None)
    ends = max(value.low, bottom), min(value.high, top)
    return replace(value, low=ends[0], high=ends[1], cut=ends != (value.low, value.high))


def interquartile_mean(values: Sequence[float]) -> float | None:
    """Mean of the middle half of the values (the 25 % trimmed mean of Agarwal et al. 2021); None for no values."""
    return float(stats.trim_mean(np.asarray(values, dtype=float), 0.25)) if len(values) else None
