"""Intervals and tests over trials.  The unit is the trial, not the test item; what is undefined is None, never NaN.

The orders of the tasks are fixed strata: the estimand is the mean over the study's orders, each with the same
weight, and spread between orders is not error.  With one order everything here is the ordinary t interval.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar, cast

import numpy as np
from scipy import optimize, stats

#: Up to here all sign patterns are enumerated (2^16 of them); beyond, this many are drawn with a fixed seed.
EXACT_PAIRS = 16
SAMPLED_FLIPS = 100_000
#: Sign patterns of one product: bounds its memory to about 16 MB for 250 columns.
FLIPS_AT_ONCE = 8192
#: What is called significant, after Holm.
LEVEL = 0.05
#: Arms with fewer seeds than this are provisional: neither ranked nor tested.
LEAST_SEEDS = 3
POWER = 0.8  #: of the minimum detectable effect

#: What pairs two trials: (stratum, seed).
Key = TypeVar("Key", bound=tuple[Hashable, Hashable])
Item = TypeVar("Item")  #: what one test item contributes to a score


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` trials with its confidence interval, in the unit of the values; None where n is too small."""

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
    error: float | None = None  #: standard error of the mean
    df: int = 0


def _weights(strata: Sequence[Hashable]) -> np.ndarray:
    """Weight of each value so that every stratum weighs the same: 1 / (strata x values in its stratum)."""
    labels = list(strata)
    sizes = Counter(labels)
    return np.array([1.0 / (len(sizes) * sizes[label]) for label in labels])


def stratified_errors(values: np.ndarray, strata: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray | None, int]:
    """(means [m], their standard errors [m], df) of m columns of n values in the same fixed strata.

    The mean is the unweighted mean of the strata's means; the variance is pooled within strata, the standard error is
    s sqrt(sum w_i^2), df = n - number of strata; no errors where df = 0.
    """
    weights, labels = _weights(strata), list(strata)
    means = weights @ values
    groups = [values[[i for i, other in enumerate(labels) if other == label]] for label in dict.fromkeys(labels)]
    df = len(values) - len(groups)
    if df == 0:
        return means, None, 0
    variance = np.sum([((group - group.mean(axis=0)) ** 2).sum(axis=0) for group in groups], axis=0) / df
    return means, np.sqrt(variance * (weights**2).sum()), df


def stratified_mean(
    values: Sequence[float], strata: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> Estimate | None:
    """Mean and t interval of independent values within fixed strata; see :func:`stratified_errors`.

    None for no values; no interval where df = 0.
    """
    data = np.asarray(values, dtype=float)
    labels = list(strata) if strata is not None else [0] * len(data)
    if len(labels) != len(data) or not np.isfinite(data).all():
        raise ValueError("every value needs a stratum and must be finite")
    if len(data) == 0:
        return None
    means, errors, df = stratified_errors(data[:, None], labels)
    mean = float(means[0])
    if errors is None:
        return Estimate(mean, None, None, len(data))
    half = t_quantile(df, confidence) * float(errors[0])
    return Estimate(mean, mean - half, mean + half, len(data))


@cache
def t_quantile(df: int, confidence: float = 0.95) -> float:
    """How many standard errors a two-sided t interval reaches to each side."""
    return float(stats.t.ppf((1 + confidence) / 2, df))


def smallest_p(pairs: int) -> float:
    """The smallest two-sided p an exact sign-flip test can give: 2 / 2^pairs."""
    return 2.0 ** (1 - pairs)


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float | None:
    """:func:`sign_flip_ps` of one column; None for fewer than two differences."""
    data = np.asarray(differences, dtype=float)
    return float(sign_flip_ps(data[:, None], seed)[0]) if len(data) >= 2 else None


def sign_flip_ps(differences: np.ndarray, seed: int = 0) -> np.ndarray:
    """Two-sided p [m] of the sign-flip (randomisation) test that each column [n, m] is symmetric about 0.

    The share of sign patterns whose absolute sum is at least the one seen: exact up to ``EXACT_PAIRS`` differences,
    beyond from ``SAMPLED_FLIPS`` random patterns with the seen one counted in.  All columns share the patterns.
    """
    data = np.asarray(differences, dtype=float)
    if not np.isfinite(data).all():
        raise ValueError("the differences must be finite")
    # Sums of the same numbers in another order differ in the last bits; a tie must stay a tie.
    seen = np.abs(data.sum(axis=0)) - 1e-12 * np.abs(data).sum(axis=0)
    hits, patterns = np.zeros(data.shape[1], dtype=np.int64), 0
    for signs in _exact_signs(len(data)) if len(data) <= EXACT_PAIRS else _sampled_signs(len(data), seed):
        hits += (np.abs(signs @ data) >= seen).sum(axis=0)
        patterns += len(signs)
    return hits / patterns if len(data) <= EXACT_PAIRS else (1 + hits) / (1 + patterns)


def _exact_signs(pairs: int) -> Iterator[np.ndarray]:
    """Every pattern but for its opposite, which has the same absolute sum: the first sign is fixed."""
    for start in range(0, 2 ** (pairs - 1), FLIPS_AT_ONCE):
        number = np.arange(start, min(start + FLIPS_AT_ONCE, 2 ** (pairs - 1)), dtype=np.uint32)[:, None]
        yield 1.0 - 2.0 * ((number << 1 >> np.arange(pairs, dtype=np.uint32)) & 1)


def _sampled_signs(pairs: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for start in range(0, SAMPLED_FLIPS, FLIPS_AT_ONCE):
        size = (min(FLIPS_AT_ONCE, SAMPLED_FLIPS - start), pairs)
        yield rng.integers(0, 2, size=size, dtype=np.int8) * 2.0 - 1.0


def paired_difference(arm: Mapping[Key, float], reference: Mapping[Key, float]) -> Paired | None:
    """Arm minus reference over the (stratum, seed) keys both have; None where they share none."""
    return paired_differences({"": arm}, reference).get("")


def paired_differences(arms: Mapping[str, Mapping[Key, float]], reference: Mapping[Key, float]) -> dict[str, Paired]:
    """Each arm minus the reference over the (stratum, seed) keys both have; arms that share none are left out.

    The test statistic of the sign-flip p is the stratified mean itself, so p and interval are about one estimate.
    """
    alike: dict[tuple[Key, ...], list[str]] = defaultdict(list)
    for name, arm in arms.items():
        alike[tuple(sorted(arm.keys() & reference.keys(), key=repr))].append(name)
    differences = {}
    for keys, names in alike.items():
        if keys:
            gaps = np.array([[arms[name][key] - reference[key] for name in names] for key in keys], dtype=float)
            differences |= dict(zip(names, _paired(gaps, [key[0] for key in keys]), strict=True))
    return {name: differences[name] for name in arms if name in differences}


def _paired(gaps: np.ndarray, strata: Sequence[Hashable]) -> Iterator[Paired]:
    """One result a column of ``gaps`` [pairs, m]."""
    pairs = len(gaps)
    means, errors, df = stratified_errors(gaps, strata)
    p_values = sign_flip_ps(gaps * _weights(strata)[:, None]) if pairs >= 2 else None
    for i, mean in enumerate(means.tolist()):
        error = None if errors is None else float(errors[i])
        half = None if error is None else t_quantile(df) * error
        low, high = (None, None) if half is None else (mean - half, mean + half)
        yield Paired(mean, low, high, pairs, None if p_values is None else float(p_values[i]), error, df)


def minimum_detectable_effect(gap: Paired, tests: int = 1) -> float | None:
    """The true difference that has 80 % power to be called significant at Holm's first step over ``tests`` arms.

    By the non-central t with the standard error and df of ``gap`` (Cohen 1988), at the largest level up to
    ``LEVEL / tests`` that a sign-flip p of so many pairs can take.  None where no difference, however large, could be
    significant, or where the pairs give no standard error.
    """
    step = smallest_p(gap.pairs)
    level = LEVEL / tests
    if gap.pairs <= EXACT_PAIRS:
        level = np.floor(level / step + 1e-9) * step
    return _noncentrality(gap.df, float(level)) * gap.error if gap.error is not None and level > 0 else None


@cache
def _noncentrality(df: int, level: float) -> float:
    """True mean in standard errors at which a two-sided t test at ``level`` has the power ``POWER``."""
    critical = float(stats.t.isf(level / 2, df))

    def lacking(shift: float) -> float:
        # The other tail is below 1e-5 where this one is 0.8 (and scipy has NaN there).
        return float(stats.nct.sf(critical, df, shift)) - POWER

    root = cast(float, optimize.brentq(lacking, 0.0, 2 * critical + 10.0, xtol=1e-9))  # a pair with `full_output`
    return float(root)


def tie_groups(arms: Mapping[str, Mapping[Key, float]]) -> dict[str, int]:
    """Groups 1, 2, ... of arms whose values (higher is better) can't be told apart from their group's best.

    The arm with the highest mean leads group 1, with every arm whose paired difference to it is not significant: Holm
    at ``LEVEL`` over the arms below the leader; an arm that shares fewer than two pairs with it can't be told apart.
    The best of those left leads the next group.  A wide spread can so put an arm into a better group than one with a
    higher mean: it has not been shown to be worse.
    """
    means = {name: _weights([key[0] for key in arm]) @ np.array(list(arm.values())) for name, arm in arms.items()}
    # Rounded, so that a difference in the last bit of a sum doesn't decide over the name.
    left = sorted(arms, key=lambda name: (-float(np.round(means[name], 12)), name))
    groups: dict[str, int] = {}
    while left:
        leader, others = left[0], left[1:]
        gaps = paired_differences({name: arms[name] for name in others}, arms[leader])
        p_values = holm([gaps[name].p if name in gaps else None for name in others])
        below = [name for name, p in zip(others, p_values, strict=True) if p is not None and p < LEVEL]
        number = max(groups.values(), default=0) + 1
        groups |= {name: number for name in left if name not in below}
        left = below
    return groups


def interquartile_mean(values: Sequence[float]) -> float | None:
    """Mean of the middle half of the values (the 25 % trimmed mean of Agarwal et al. 2021); None for no values."""
    return float(stats.trim_mean(np.asarray(values, dtype=float), 0.25)) if len(values) else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p over those that exist (Holm 1979); None stays None and does not count."""
    known = [i for i, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    for i, p in zip(known, holm_ps(np.array([[p_values[i]] for i in known], dtype=float)), strict=True):
        adjusted[i] = float(p[0])
    return adjusted


def holm_ps(p_values: np.ndarray) -> np.ndarray:
    """:func:`holm` down every column of [tests, m].

    Not statsmodels' ``multipletests``, against which it is tested: that collects garbage on every call (0.1 s).
    """
    order = np.argsort(p_values, axis=0, kind="stable")
    steps = np.arange(len(p_values), 0, -1)[:, None]
    rising = np.maximum.accumulate(np.take_along_axis(p_values, order, axis=0) * steps, axis=0)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, np.minimum(rising, 1.0), axis=0)
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
