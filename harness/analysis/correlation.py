"""Rank correlation with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of ``n`` pairs and its interval."""

    rho: float
    low: float
    high: float
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
