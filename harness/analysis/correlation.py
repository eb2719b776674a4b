"""How two quantities of trials go together: over all of them, and within arms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

#: Fewer arms say nothing by a bootstrap over arms.
LEAST_ARMS = 5
RESAMPLES = 2000
#: Eigenvalues of products below this share of the largest are 0: one quantity is made of others.
SINGULAR = 1e-8
#: Deviations below this share of the values are those of rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of ``n`` pairs and its interval."""

    rho: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Slope:
    """How much y changes with x within arms, in the unit of y for one standard deviation of x within arms."""

    value: float
    low: float  #: of the 95 % interval by bootstrap over arms
    high: float
    arms: int
    n: int


def spearman(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> Correlation | None:
    """Spearman's rho, ties by mean ranks, with the interval of Bonett and Wright (2000).

    On Fisher's z scale with standard error sqrt((1 + rho^2 / 2) / (n - 3)).  None where it is not defined: fewer than
    four pairs, or one side constant.
    """
    first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if first.shape != second.shape or not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a correlation needs pairs of finite numbers")
    n = len(first)
    if n < 4 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    rho = float(np.clip(np.corrcoef(stats.rankdata(first), stats.rankdata(second))[0, 1], -1, 1))
    if 1 - abs(rho) < 1e-12:
        return Correlation(rho, rho, rho, n)
    half = float(stats.norm.ppf((1 + confidence) / 2)) * float(np.sqrt((1 + rho**2 / 2) / (n - 3)))
    low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    return Correlation(rho, float(low), float(high), n)


def within_slope(
    arms: Sequence[Hashable],
    y: Sequence[float],
    x: Sequence[float],
    others: Mapping[str, Sequence[float]],
    seed: int = 0,
) -> Slope | None:
    """The slope of y on x within arms, with ``others`` held: least squares on deviations from the arm's means.

    A correlation over trials mixes two questions: whether arms with more of x have more of y, which anything that
    differs between arms explains, and whether of two trials of one arm that with more of x has more of y.  This is the
    second.  The interval is that of the 2.5 and 97.5 percentiles over ``RESAMPLES`` draws of arms, whole, with
    replacement.  None for fewer than ``LEAST_ARMS`` arms with two trials, and where x does not vary within arms, or
    only as the others do.
    """
    columns = np.column_stack([y, x, *others.values()]).astype(float)
    if len(columns) != len(arms) or not np.isfinite(columns).all():
        raise ValueError("a slope needs as many arms as values, all finite")
    products, used = [], 0
    for arm in dict.fromkeys(arms):
        own = columns[[other == arm for other in arms]]
        if len(own) > 1:
            left = own - own.mean(axis=0)
            products.append(left.T @ left)
            used += len(own)
    if len(products) < LEAST_ARMS:
        return None
    each = np.array(products)
    scale = np.sqrt(np.diagonal(each.sum(axis=0)) / (used - len(products)))
    varies = scale > ROUNDING * np.maximum(np.abs(columns).max(axis=0), 1.0)
    if not varies[:2].all():
        return None
    each = each[:, varies][:, :, varies] / np.outer(scale[varies], scale[varies])
    value = scale[0] * _slopes(each.sum(axis=0)[None])[0]
    if np.isnan(value):
        return None
    drawn = np.random.default_rng(seed).multinomial(len(each), [1 / len(each)] * len(each), size=RESAMPLES)
    low, high = scale[0] * np.nanpercentile(_slopes(np.tensordot(drawn, each, axes=1)), [2.5, 97.5])
    return Slope(float(value), float(low), float(high), len(each), used)


def _slopes(products: np.ndarray) -> np.ndarray:
    """[b]: of the first column on the second, the rest held, from sums of products [b, q, q]; NaN where singular."""
    predictors, response = products[:, 1:, 1:], products[:, 1:, :1]
    eigenvalues = np.linalg.eigvalsh(predictors)
    regular = eigenvalues[:, 0] > SINGULAR * eigenvalues[:, -1]
    slopes = np.full(len(products), np.nan)
    slopes[regular] = np.linalg.solve(predictors[regular], response[regular])[:, 0, 0]
    return slopes
