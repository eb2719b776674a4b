"""Changes of a share over the same test items, and standard errors without a formula.  The unit is the item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

Item = TypeVar("Item")  #: what one test item contributes to a score


@dataclass(frozen=True)
class PairedChange:
    """How a share of right answers changed on the same items: after minus before."""

    mean: float
    error: float | None  #: standard error of the paired difference; None for a single item
    p: float  #: two-sided exact McNemar p


def paired_change(before: Sequence[bool], after: Sequence[bool]) -> PairedChange:
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
    return PairedChange((gained - lost) / len(first), error, p)


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

    def without(group: int) -> list[Item]:
        left = list(values)
        del left[group::count]
        return left

    left = [statistic(without(group)) for group in range(count)]
    error = float(np.sqrt((count - 1) * np.var(np.asarray(left, dtype=float))))
    return error if np.isfinite(error) else None
