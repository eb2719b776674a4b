"""Paired differences: interval, p and detectable effect are about one standard error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from harness.analysis import statistics as own
from harness.analysis.statistics.paired import c4


def gap_of(differences, orders=1, scale=(None, None)):
    keys = [(i % orders, i) for i in range(len(differences))]
    return own.paired_difference(dict(zip(keys, differences, strict=True)), dict.fromkeys(keys, 0.0), scale)


def test_intervals_that_hold_together_are_wider():
    gap = gap_of([0.1, 0.2, 0.3, 0.2])
    assert own.ends_among(gap, 1) == pytest.approx((gap.low, gap.high))
    half = stats.t.ppf(1 - 0.05 / 10, 3) * gap.error
    assert own.ends_among(gap, 5) == pytest.approx((0.2 - half, 0.2 + half))
    assert own.ends_among(gap_of([0.1, 0.1, 0.1]), 5) is None


def test_paired_difference_pairs_by_order_and_seed():
    arm = {("a", 0): 0.6, ("a", 1): 0.7, ("a", 2): 0.8, ("b", 9): 0.1}
    lora = {("a", 0): 0.5, ("a", 1): 0.5, ("a", 2): 0.5, ("c", 9): 0.9}
    result = own.paired_difference(arm, lora)
    half = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert (result.mean, result.low, result.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert (result.pairs, result.df) == (3, pytest.approx(2))
    assert result.p == pytest.approx(stats.ttest_1samp([0.1, 0.2, 0.3], 0).pvalue)
    assert result.p_sign_flip is None, "three pairs could not reject"
    assert own.paired_difference(arm, {("z", 0): 1.0}) is None


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=9), st.sampled_from([1, 2, 3]))
def test_p_is_small_exactly_where_the_interval_leaves_out_0(differences, orders):
    gap = gap_of(differences, orders)
    if gap.low is not None and min(abs(gap.low), abs(gap.high)) > 1e-9:
        assert (gap.p < own.LEVEL) == (gap.low > 0 or gap.high < 0)


def test_three_pairs_with_a_clear_interval_are_significant():
    """An interval of [-31, -3.6] once stood beside 'can't be told apart'."""
    gap = gap_of([-0.17, -0.20, -0.14])
    assert gap.high < 0
    assert gap.p < own.LEVEL


def test_the_sign_flip_p_is_a_check_from_six_pairs_up():
    assert gap_of([0.1, 0.2, 0.3, 0.2, 0.1]).p_sign_flip is None
    assert gap_of([0.1, 0.2, 0.3, 0.2, 0.1, 0.1]).p_sign_flip == 2 / 2**6


def test_one_pair_has_a_difference_and_nothing_else():
    result = gap_of([0.1])
    assert (result.mean, result.low, result.high, result.pairs, result.p) == (pytest.approx(0.1), None, None, 1, None)
    assert own.minimum_detectable_effect(result) is None


def test_pairs_without_spread_claim_nothing():
    result = gap_of([0.6 - 0.5, 0.7 - 0.6, 0.8 - 0.7])
    assert (result.error, result.p, result.low) == (0, None, None)
    assert own.minimum_detectable_effect(result) is None
    same = gap_of([0.0, 0.0, 0.0])
    assert same.tie
    assert (same.p, own.minimum_detectable_effect(same)) == (1, None)


def test_a_difference_in_the_last_bit_is_a_tie():
    result = gap_of([-7e-17, 0.0, 0.0])
    assert (result.mean, result.p, result.tie) == (0, 1, True)
    assert gap_of([0.1, -0.1, 0.3 - (0.1 + 0.2)]).tie


def test_a_difference_of_shares_ends_with_its_scale():
    result = gap_of([0.9, 0.1, 0.8], scale=own.SHARES_APART)
    assert (result.high, result.cut) == (1.0, True)
    assert result.p == gap_of([0.9, 0.1, 0.8]).p, "the test is of the t, not of what is shown"
    assert gap_of([0.1, 0.2], scale=own.SHARES_APART).low is None


def test_arms_are_compared_alike_one_by_one_or_together():
    reference = {(order, seed): 0.5 for order in "ab" for seed in range(3)}
    arms = {"x": {key: 0.5 + 0.01 * i for i, key in enumerate(reference)}, "y": {("a", 1): 0.7}, "z": {("q", 0): 1.0}}
    compared = {name: (arm, reference, own.SHARES_APART) for name, arm in arms.items()}
    found = own.paired_differences(compared | {"itself": (reference, reference, (None, None))})
    assert list(found) == ["x", "y", "itself"]
    assert found["x"] == own.paired_difference(arms["x"], reference, own.SHARES_APART)
    assert found["y"].pairs == 1
    assert found["itself"].tie


@pytest.mark.parametrize(("pairs", "tests"), [(3, 1), (20, 1), (30, 4)])
def test_the_detectable_effect_is_that_of_statsmodels(pairs, tests):
    gap = own.Paired(0.0, None, None, pairs, 1.0, error=0.02 / np.sqrt(pairs), df=pairs - 1)
    effect = TTestPower().solve_power(nobs=pairs, alpha=0.05 / tests, power=0.8)
    assert own.minimum_detectable_effect(gap, tests) * c4(gap.df) == pytest.approx(0.02 * effect, rel=1e-4)
    assert own.minimum_detectable_effect(replace(gap, error=2 * gap.error), tests) == pytest.approx(
        2 * own.minimum_detectable_effect(gap, tests)
    )


def test_c4_is_the_mean_of_a_standard_deviation():
    rng = np.random.default_rng(0)
    assert c4(2) == pytest.approx(0.8862, abs=1e-4)
    assert rng.normal(size=(4, 100_000)).std(axis=0, ddof=1).mean() == pytest.approx(c4(3), abs=0.004)
