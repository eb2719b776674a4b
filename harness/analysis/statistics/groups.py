"""Groups of arms that can't be told apart, from tests of all pairs at once.

Tests against the best arm of a board are biased: the best is chosen by the same numbers, and one of twenty equal arms
looks good by luck.  Here the level holds for all pairs together, so the choice costs nothing: Tukey's range on the
residual of the blocks where the arms' variances are alike, else the largest t of all pairs when arms swap their
labels within each order and seed (Westfall & Young 1993).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
from scipy import stats

from harness.analysis.statistics.block import Residual
from harness.analysis.statistics.multiplicity import LEVEL
from harness.analysis.statistics.paired import Key
from harness.analysis.statistics.sign_flip import LEAST_PAIRS
from harness.analysis.statistics.strata import ROUNDING, rows_of, stratum_weights

PERMUTATIONS = 1000
#: Values of one batch of permuted boards: bounds its memory to about 100 MB.
AT_ONCE = 2_000_000

Test = Literal["range", "max-T"]


@dataclass(frozen=True)
class Groups:
    """Arm -> number of its group, 1 the best; empty with the reason where arms can't be tested."""

    numbers: dict[str, int] = field(default_factory=dict)
    test: Test | None = None
    untested: str = ""  #: why there are no groups


def tie_groups(arms: Mapping[str, Mapping[Key, float]], residual: Residual | None) -> Groups:
    """Groups of arms (higher is better) that can't be told apart from their group's best.

    The arm with the highest mean leads group 1, with every arm that no test tells from it; the best of those left leads
    the next group.  A wide spread can so put an arm into a better group than one with a higher mean: it has not been
    shown to be worse.  ``residual`` is that of all trained arms on the same blocks, of one board; None without one.
    """
    keys = sorted(set[Key].intersection(*(set(values) for values in arms.values())), key=repr) if arms else []
    if len(arms) < 2:
        return Groups(dict.fromkeys(arms, 1))
    strata = [key[0] for key in keys]
    if not keys or min(len(rows) for rows in rows_of(strata)) < 2:
        return Groups(untested="the arms share no two seeds of every order")
    # Ties of the mean go by name, which decides nothing: arms that tie are never told apart.
    means = {name: stratum_weights(strata) @ [values[key] for key in keys] for name, values in arms.items()}
    names = sorted(arms, key=lambda name: (-round(float(means[name]) / ROUNDING), name))
    values = np.array([[arms[name][key] for name in names] for key in keys], dtype=float)
    if residual is not None and residual.usable.all():
        test, apart = "range", range_separated(values, strata, residual)
    elif len(keys) >= LEAST_PAIRS:
        test, apart = "max-T", max_t_separated(values, strata)
    else:
        return Groups(untested=f"it takes {LEAST_PAIRS} pairs where arms are not equally noisy: here {len(keys)}")
    return Groups(_numbered(names, apart), test)


def _numbered(names: Sequence[str], apart: np.ndarray) -> dict[str, int]:
    """Groups of names, the best first, of which ``apart`` [arms, arms] says which are told apart."""
    numbers: dict[str, int] = {}
    left = list(range(len(names)))
    while left:
        below = [i for i in left if apart[left[0], i]]
        number = max(numbers.values(), default=0) + 1
        numbers |= {names[i]: number for i in left if i not in below}
        left = below
    return numbers


def range_separated(values: np.ndarray, strata: Sequence[Hashable], residual: Residual) -> np.ndarray:
    """[arms, arms, *m]: which pairs of arms of boards [n, arms, *m] Tukey's range tells apart."""
    means = np.tensordot(stratum_weights(strata), values, axes=1)
    gaps = np.abs(means[:, None] - means[None])
    limits = critical_ranges(values.shape[1], np.asarray(residual.df)) / np.sqrt(2)
    return (gaps > ROUNDING) & (gaps > limits * residual.errors)


def critical_ranges(arms: int, df: np.ndarray) -> np.ndarray:
    """[*m]: what the studentised range of ``arms`` equal means exceeds in 5 % of boards.

    With df rounded down, above 30 to the next of 40, 60, 120 and 240 below it: at most 1 % too large, and few values
    are as slow to compute as scipy's.
    """
    steps = np.array([*range(1, 31), 40, 60, 120, 240])
    rounded = steps[np.searchsorted(steps, np.maximum(df, 1) + 1e-9, side="right") - 1]
    known = {int(each): _critical_range(arms, int(each)) for each in np.unique(rounded)}
    return np.vectorize(known.__getitem__, otypes=[float])(rounded)


@cache
def _critical_range(arms: int, df: int) -> float:
    return float(stats.studentized_range.isf(LEVEL, arms, df))


def max_t_separated(values: np.ndarray, strata: Sequence[Hashable], seed: int = 0) -> np.ndarray:
    """[arms, arms]: which pairs of arms of one board [n, arms] the largest t of all pairs tells apart.

    A pair is told apart where its t is reached by the largest t of at most 5 % of the boards whose labels are permuted
    within each block, ``PERMUTATIONS`` of them by a fixed seed and the board itself.
    """
    rng = np.random.default_rng(seed)
    seen = _pair_ts(values[None], strata)[0]
    batch = max(1, AT_ONCE // (values.size + values.shape[1] ** 2 * 3))
    largest = [seen.max()]
    for start in range(0, PERMUTATIONS, batch):
        copies = np.broadcast_to(values, (min(batch, PERMUTATIONS - start), *values.shape))
        largest.extend(_pair_ts(rng.permuted(copies, axis=2), strata).max(axis=(1, 2)))
    reached = np.mean(np.array(largest)[:, None, None] >= seen - ROUNDING, axis=0)
    return (reached <= LEVEL) & (seen > 0)


def _pair_ts(boards: np.ndarray, strata: Sequence[Hashable]) -> np.ndarray:
    """|t| of every pair of arms, [boards, arms, arms], of boards [boards, n, arms]; 0 where a pair has no spread.

    With the standard error of :func:`strata.moments`: the variance of a difference is var + var - 2 cov.
    """
    groups, left = rows_of(strata), np.empty_like(boards)
    for rows in groups:
        data = boards[:, rows]
        # Scaled, so that sums of products are (co)variances of the stratified means.
        scale = len(groups) * np.sqrt(len(rows) * (len(rows) - 1))
        left[:, rows] = (data - data.mean(axis=1, keepdims=True)) / scale
    covariance = np.matmul(left.swapaxes(1, 2), left)
    own = np.diagonal(covariance, axis1=1, axis2=2)
    both = own[:, :, None] + own[:, None, :]
    variances = both - 2 * covariance
    # What two arms share cancels to the last bits, which are no noise.
    real = variances > 1e-10 * both
    means = np.matmul(stratum_weights(strata), boards)
    gaps = np.abs(means[:, :, None] - means[:, None, :])
    return np.where(real & (gaps > ROUNDING), gaps / np.sqrt(np.where(real, variances, 1.0)), 0.0)
