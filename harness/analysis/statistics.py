"""Intervals and tests over trials.  The unit is the trial, not the test item; what is undefined is None, never NaN.

The orders of the tasks are fixed strata: the estimand is the mean over the study's own orders, each with the same
weight, and spread between orders is not error.  With one order everything here is the ordinary t interval.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

#: Up to here all sign patterns are enumerated (2^16 of them); beyond, this many are drawn with a fixed seed.
EXACT_PAIRS = 16
SAMPLED_FLIPS = 100_000


#: What pairs two trials: (stratum, seed).
Key = TypeVar("Key", bound=tuple[Hashable, Hashable])
Item = TypeVar("Item")  #: what one test item contributes to a score


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` trials with its confidence interval, in the unit of the values; None where n allows none."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Change:
    """How a share of right answers changed on the same items: after minus before."""

    mean: float
    error: float | None  #: standard error of the paired difference; None for a single item
    p: float  #: two-sided exact McNemar p


@dataclass(frozen=True)
class Paired:
    """A paired difference (arm minus reference) over ``pairs`` trials of the same order and seed."""

    mean: float
    low: float | None
    high: float | None
    pairs: int
    p: float | None  #: two-sided sign-flip p; None for fewer than two pairs


def _weights(strata: Sequence[Hashable]) -> np.ndarray:
    """Weight of each value so that every stratum weighs the same: 1 / (strata x values in its stratum)."""
    labels = list(strata)
    sizes = {label: labels.count(label) for label in labels}
    return np.array([1.0 / (len(sizes) * sizes[label]) for label in labels])


def stratified_mean(
    values: Sequence[float], strata: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> Estimate | None:
    """Mean and t interval of independent values within fixed strata.

    The mean is the unweighted mean of the strata's means; the variance is pooled within strata, the standard error is
    s sqrt(sum w_i^2), df = n - number of strata.  None for no values; no interval where df = 0.
    """
    data = np.asarray(values, dtype=float)
    labels = list(strata) if strata is not None else [0] * len(data)
    if len(labels) != len(data) or not np.isfinite(data).all():
        raise ValueError("every value needs a stratum and must be finite")
    if len(data) == 0:
        return None
    weights = _weights(labels)
    mean = float(weights @ data)
    groups = [data[[i for i, other in enumerate(labels) if other == label]] for label in dict.fromkeys(labels)]
    df = len(data) - len(groups)
    if df == 0:
        return Estimate(mean, None, None, len(data))
    variance = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / df
    half = float(stats.t.ppf((1 + confidence) / 2, df)) * float(np.sqrt(variance * (weights**2).sum()))
    return Estimate(mean, mean - half, mean + half, len(data))


def smallest_p(pairs: int) -> float:
    """The smallest two-sided p an exact sign-flip test can give: 2 / 2^pairs."""
    return 2.0 ** (1 - pairs)


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float | None:
    """Two-sided p of the sign-flip (randomisation) test that the differences are symmetric about 0.

    The share of sign patterns whose absolute sum is at least the one seen: exact up to ``EXACT_PAIRS`` differences,
    beyond from ``SAMPLED_FLIPS`` random patterns with the seen one counted in.  None for fewer than two.
    """
    data = np.asarray(differences, dtype=float)
    if not np.isfinite(data).all():
        raise ValueError("the differences must be finite")
    pairs = len(data)
    if pairs < 2:
        return None
    # Sums of the same numbers in another order differ in the last bits; a tie must stay a tie.
    seen = abs(float(data.sum())) - 1e-12 * float(np.abs(data).sum())
    if pairs <= EXACT_PAIRS:
        # The first sign is fixed: a pattern and its opposite have the same absolute sum.
        patterns = np.arange(2 ** (pairs - 1), dtype=np.uint32)[:, None] >> np.arange(pairs - 1, dtype=np.uint32)
        signs = 1.0 - 2.0 * (patterns & 1)
        sums = np.abs(data[0] + signs @ data[1:])
        return float(np.mean(sums >= seen))
    signs = np.random.default_rng(seed).integers(0, 2, size=(SAMPLED_FLIPS, pairs), dtype=np.int8) * 2.0 - 1.0
    return (1 + int((np.abs(signs @ data) >= seen).sum())) / (1 + SAMPLED_FLIPS)


def paired_difference(arm: Mapping[Key, float], reference: Mapping[Key, float]) -> Paired | None:
    """Arm minus reference over the (stratum, seed) keys both have; None where they share none.

    The test statistic of the sign-flip p is the stratified mean itself, so p and interval are about one estimate.
    """
    keys = sorted(arm.keys() & reference.keys(), key=repr)
    if not keys:
        return None
    differences = [arm[key] - reference[key] for key in keys]
    strata = [key[0] for key in keys]
    estimate = stratified_mean(differences, strata)
    assert estimate is not None
    p = sign_flip_p([d * float(w) for d, w in zip(differences, _weights(strata), strict=True)])
    return Paired(estimate.mean, estimate.low, estimate.high, len(keys), p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p over those that exist (Holm 1979); None stays None and does not count."""
    known = [i for i, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    if known:
        corrected = np.asarray(multipletests([p_values[i] for i in known], method="holm")[1])
        for i, p in zip(known, corrected.tolist(), strict=True):
            adjusted[i] = p
    return adjusted


def paired_change(before: Sequence[bool], after: Sequence[bool]) -> Change:
    """The change of a share of right answers between two answers to the same items.

    The standard error is that of the mean of the per-item differences (McNemar's, with n - 1): only items whose answer
    changed count.  p is that of McNemar's exact test, which is right however few those are.
    """
    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if first.shape != second.shape or not len(first):
        raise ValueError("a paired change needs the same items, and at least one")
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    differences = second.astype(float) - first
    error = float(differences.std(ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else None
    return Change((gained - lost) / len(first), error, p)


def jackknife_error(
    values: Sequence[Item], statistic: Callable[[Sequence[Item]], float], groups: int = 100
) -> float | None:
    """Standard error of ``statistic(values)`` by leaving out one of at most ``groups`` interleaved groups at a time.

    sqrt((g - 1) / g sum_i (s_i - mean s)^2), with s_i the statistic without group i (Quenouille 1956, Tukey 1958); with
    as many groups as values it is the standard error of a mean exactly.  None for fewer than two values, or where the
    statistic is not finite.
    """
    count = min(groups, len(values))
    if count < 2:
        return None
    left = [statistic([value for i, value in enumerate(values) if i % count != group]) for group in range(count)]
    error = float(np.sqrt((count - 1) * np.var(np.asarray(left, dtype=float))))
    return error if np.isfinite(error) else None
