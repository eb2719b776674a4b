"""Paired differences between arms: interval, p and what could have been found, all from one standard error."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar, cast

import numpy as np
from scipy import optimize, special, stats

from harness.analysis.statistics.multiplicity import LEVEL
from harness.analysis.statistics.sign_flip import LEAST_PAIRS, sign_flip_ps
from harness.analysis.statistics.strata import (
    Estimate,
    Moments,
    Scale,
    half_widths,
    inside,
    moments,
    stratum_weights,
    t_ps,
    with_ends,
)

POWER = 0.8  #: of the minimum detectable effect

#: What pairs two trials: (stratum, seed).
Key = TypeVar("Key", bound=tuple[Hashable, Hashable])
#: What names a difference.
Name = TypeVar("Name", bound=Hashable)
#: An arm's values and its reference's, and the ends of their difference, where it has any.
Compared = tuple[Mapping[Key, float], Mapping[Key, float], Scale]


@dataclass(frozen=True)
class Paired:
    """A paired difference (arm minus reference) over ``pairs`` trials of the same order and seed."""

    mean: float
    low: float | None
    high: float | None
    pairs: int
    p: float | None  #: two-sided, of the t statistic behind the interval; None where no t can be computed
    error: float | None = None  #: standard error of the mean; None where an order has one pair
    df: float = 0.0  #: of that error; 0 where there is no t
    p_sign_flip: float | None = None  #: of a test without a distribution, a check; None below ``LEAST_PAIRS``
    cut: bool = False  #: the interval reached beyond the scale, and is given up to its end

    @property
    def estimate(self) -> Estimate:
        """Mean and interval."""
        return Estimate(self.mean, self.low, self.high, self.pairs, self.cut)

    @property
    def tie(self) -> bool:
        """Whether the two are the same: a mean difference of exactly 0."""
        return self.mean == 0


def paired_difference(
    arm: Mapping[Key, float], reference: Mapping[Key, float], scale: Scale = (None, None)
) -> Paired | None:
    """Arm minus reference over the (stratum, seed) keys both have; None where they share none."""
    return paired_differences({"": (arm, reference, scale)}).get("")


def paired_differences(compared: Mapping[Name, Compared[Key]]) -> dict[Name, Paired]:
    """Each arm minus its reference over the (stratum, seed) keys both have; those that share none are left out.

    Ask for all of a study at once: they share the sign patterns of the check, and drawing those takes longest.
    """
    alike: dict[tuple[Key, ...], list[Name]] = defaultdict(list)
    for name, (arm, reference, _) in compared.items():
        alike[tuple(sorted(arm.keys() & reference.keys(), key=repr))].append(name)
    differences: dict[Name, Paired] = {}
    for keys, names in alike.items():
        if keys:
            taken = [compared[name] for name in names]
            gaps = np.array([[arm[key] - reference[key] for arm, reference, _ in taken] for key in keys], dtype=float)
            found = _paired(gaps, [key[0] for key in keys], [scale for *_, scale in taken])
            differences |= dict(zip(names, found, strict=True))
    return {name: differences[name] for name in compared if name in differences}


def ends_among(gap: Paired, count: int) -> tuple[float, float] | None:
    """The ends of one of ``count`` differences' intervals that hold together in 95 % (Bonferroni); None without error.

    They are not cut at the ends of a scale.
    """
    if not gap.error:
        return None
    half = float(half_widths(Moments(*map(np.asarray, (gap.mean, gap.error, gap.df))), 1 - 0.05 / count))
    return gap.mean - half, gap.mean + half


def _paired(gaps: np.ndarray, strata: Sequence[Hashable], scales: Sequence[Scale]) -> Iterator[Paired]:
    """One result a column of ``gaps`` [pairs, m]."""
    pairs = len(gaps)
    found = moments(gaps, strata)
    halves, p_values = half_widths(found), t_ps(found)
    # The statistic of the check is the stratified mean too, so that both p are about one estimate.
    flips = sign_flip_ps(gaps * stratum_weights(strata)[:, None]) if pairs >= LEAST_PAIRS else None
    for i, scale in enumerate(scales):
        value = inside(with_ends(float(found.means[i]), float(halves[i]), pairs), scale)
        yield Paired(
            value.mean, value.low, value.high, pairs, _known(p_values[i]), _known(found.errors[i]),
            _known(found.df[i]) or 0.0, None if flips is None else float(flips[i]), value.cut,
        )  # fmt: skip


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def minimum_detectable_effect(gap: Paired, tests: int = 1) -> float | None:
    """The true difference that has 80 % power to be called significant at Holm's first step over ``tests`` arms.

    By the non-central t with the standard error and df of ``gap`` (Cohen 1988).  The error is divided by its bias,
    c4(df): of few pairs it is too small on average.  None without a standard error, and where that is 0: pairs that
    show no spread don't tell how large it is.
    """
    if not gap.error or not gap.df:
        return None
    return _noncentrality(gap.df, LEVEL / tests) * gap.error / c4(gap.df)


def c4(df: float) -> float:
    """What a standard deviation with ``df`` degrees of freedom is on average, of normal values of deviation 1."""
    return float(np.sqrt(2 / df) * np.exp(special.gammaln((df + 1) / 2) - special.gammaln(df / 2)))


@cache
def _noncentrality(df: float, level: float) -> float:
    """True mean in standard errors at which a two-sided t test at ``level`` has the power ``POWER``."""
    critical = float(stats.t.isf(level / 2, df))

    def lacking(shift: float) -> float:
        # The other tail is below 1e-5 where this one is 0.8 (and scipy has NaN there).
        return float(stats.nct.sf(critical, df, shift)) - POWER

    root = cast(float, optimize.brentq(lacking, 0.0, 4 * critical + 10.0, xtol=1e-9))  # a pair with `full_output`
    return float(root)
