"""Means over fixed strata: their intervals by hand, by scipy and by statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from harness.analysis import statistics as own
from harness.analysis.statistics.strata import half_widths, t_ps

numbers = st.lists(st.floats(-1, 1), min_size=2, max_size=8).filter(lambda values: np.std(values) > 1e-6)


@given(numbers)
def test_one_order_is_the_ordinary_t_interval_and_test(values):
    mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
    half = stats.t.ppf(0.975, len(values) - 1) * error
    result = own.stratified_mean(values)
    assert result is not None
    assert (result.mean, result.low, result.high) == pytest.approx((mean, mean - half, mean + half), abs=1e-9)
    assert result.n == len(values)
    found = own.moments(np.array(values)[:, None], [0] * len(values))
    assert t_ps(found)[0] == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=1e-9)


def test_two_orders_are_those_of_welch():
    """The mean of two orders is the half of a + b = a - (-b): Welch's test and interval of statsmodels, halved."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.3, 1, 4), rng.normal(0.2, 5, 7)
    found = own.moments(np.concatenate([a, b])[:, None], ["a"] * 4 + ["b"] * 7)
    welch = stats.ttest_ind(a, -b, equal_var=False)
    assert found.df[0] == pytest.approx(welch.df)
    assert t_ps(found)[0] == pytest.approx(welch.pvalue)
    low, high = CompareMeans(DescrStatsW(a), DescrStatsW(-b)).tconfint_diff(usevar="unequal")
    assert half_widths(found)[0] == pytest.approx((high - low) / 4)


def test_spread_between_orders_is_not_error():
    # Within strata: 0.1, 0.3 and 0.7, 0.9: variance 0.02 in each, standard error sqrt(2 x 0.02 / (4 x 2)), df 2.
    result = own.stratified_mean([0.1, 0.3, 0.7, 0.9], ["a", "a", "b", "b"])
    half = stats.t.ppf(0.975, 2) * np.sqrt(0.02 / 4)
    assert (result.mean, result.low, result.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))


def test_a_noisy_order_has_its_own_degrees_of_freedom():
    # Variances of the means 1 / (9 x 3) and twice 0: one order's noise alone, so its 2 degrees of freedom.
    found = own.moments(np.array([[-1.0], [0], [1], [5], [5], [5], [7], [7], [7]]), list("aaabbbccc"))
    assert (found.means[0], found.errors[0], found.df[0]) == pytest.approx((4, np.sqrt(1 / 27), 2))
    alike = own.moments(np.array([[-1.0], [0], [1]] * 3), list("aaabbbccc"))
    assert alike.df[0] == pytest.approx(6), "three alike pool theirs"


def test_strata_weigh_the_same_whatever_their_size():
    # Means 0.2 and 0.8; variances 0.02 / 2 and 0.0002 / 2 of the means.
    result = own.stratified_mean([0.1, 0.3, 0.79, 0.81], ["a", "a", "b", "b"])
    assert result.mean == pytest.approx(0.5)
    weights = own.stratified_mean([0.1, 0.3, 0.2, 0.8, 0.8], ["a", "a", "a", "b", "b"])
    assert weights.mean == pytest.approx(0.5)


def test_without_degrees_of_freedom_there_is_no_interval():
    assert own.stratified_mean([0.4]) == own.Estimate(0.4, None, None, 1)
    assert own.stratified_mean([0.4, 0.6], ["a", "b"]) == own.Estimate(0.5, None, None, 2)
    assert own.stratified_mean([0.4, 0.6, 0.5], ["a", "a", "b"]).low is None, "the spread of b is not known"
    assert own.stratified_mean([]) is None
    with pytest.raises(ValueError, match="finite"):
        own.stratified_mean([float("nan"), 1.0])
    with pytest.raises(ValueError, match="stratum"):
        own.stratified_mean([0.1, 0.2], ["a"])


def test_values_without_spread_have_no_interval():
    assert own.stratified_mean([0.1 + 0.2, 0.3, 0.3]) == own.Estimate(pytest.approx(0.3), None, None, 3)
    same = own.moments(np.full((3, 2), [0.0, 0.1]), [0, 0, 0])
    assert same.errors.tolist() == [0, 0]
    assert t_ps(same)[0] == 1, "a tie is a tie"
    assert np.isnan(t_ps(same)[1]), "without spread a difference has no t"


def test_rounding_is_no_difference():
    found = own.moments(np.array([[-7e-17], [0.0], [0.0]]), [0, 0, 0])
    assert (found.means[0], found.errors[0]) == (0, 0)


def test_intervals_end_with_their_scale():
    # 0.9, 1, 1: mean 0.9667, half-width 4.303 x 0.0333 = 0.143.
    result = own.stratified_mean([0.9, 1.0, 1.0], scale=own.SHARE)
    assert (result.low, result.high, result.cut) == (pytest.approx(0.8232, abs=1e-4), 1.0, True)
    assert own.stratified_mean([0.9, 1.0, 1.0]).high > 1
    inner = own.stratified_mean([0.50, 0.51, 0.52], scale=own.SHARE)
    assert inner == own.stratified_mean([0.50, 0.51, 0.52])
    assert not inner.cut
    counts = own.stratified_mean([0.0, 1.0, 1.0], scale=(0.0, None))
    assert (counts.low, counts.cut) == (0.0, True)
    assert counts.high > 1


def test_a_mean_beyond_the_scale_is_of_another():
    """A metric of 0 to 100 under a name that is taken for a share keeps its interval."""
    assert own.stratified_mean([41.0, 42.0, 43.0], scale=own.SHARE) == own.stratified_mean([41.0, 42.0, 43.0])


def test_two_shares_have_no_interval():
    assert own.stratified_mean([0.3, 0.5], scale=own.SHARE) == own.Estimate(0.4, None, None, 2)
    assert own.stratified_mean([3.0, 5.0], scale=(0.0, None)).high > 5


def test_the_interquartile_mean_is_the_mean_of_the_middle_half():
    assert own.interquartile_mean([0, 1, 2, 3, 4, 5, 6, 100]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert own.interquartile_mean([]) is None
