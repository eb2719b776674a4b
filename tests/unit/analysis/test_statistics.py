"""Known answers of the intervals and tests."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from harness.analysis import statistics as own

numbers = st.lists(st.floats(-1, 1), min_size=2, max_size=8)


@given(numbers)
def test_one_order_is_the_ordinary_t_interval(values):
    mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
    half = stats.t.ppf(0.975, len(values) - 1) * error
    result = own.stratified_mean(values)
    assert result is not None
    assert (result.mean, result.low, result.high) == pytest.approx((mean, mean - half, mean + half), abs=1e-9)
    assert result.n == len(values)


def test_spread_between_orders_is_not_error():
    # Within strata: 0.1, 0.3 and 0.7, 0.9; pooled variance (2 x 0.02) / 2 = 0.02, df 2, standard error sqrt(0.02 / 4).
    result = own.stratified_mean([0.1, 0.3, 0.7, 0.9], ["a", "a", "b", "b"])
    half = stats.t.ppf(0.975, 2) * np.sqrt(0.02 / 4)
    assert (result.mean, result.low, result.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))


def test_strata_weigh_the_same_whatever_their_size():
    # Means 0.2 and 0.8; pooled variance (0.02 + 0) / 1, standard error sqrt(0.02 (2/16 + 1/4)), df 1.
    result = own.stratified_mean([0.1, 0.3, 0.8], ["a", "a", "b"])
    assert result.mean == pytest.approx(0.5)
    assert result.high - result.mean == pytest.approx(stats.t.ppf(0.975, 1) * np.sqrt(0.02 * (2 / 16 + 1 / 4)))


def test_without_degrees_of_freedom_there_is_no_interval():
    assert own.stratified_mean([0.4]) == own.Estimate(0.4, None, None, 1)
    assert own.stratified_mean([0.4, 0.6], ["a", "b"]) == own.Estimate(0.5, None, None, 2)
    assert own.stratified_mean([]) is None
    with pytest.raises(ValueError, match="finite"):
        own.stratified_mean([float("nan"), 1.0])


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=7))
def test_sign_flip_p_is_the_enumeration(differences):
    seen = abs(sum(differences))
    flips = [abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
             for signs in itertools.product((1, -1), repeat=len(differences))]  # fmt: skip
    assert own.sign_flip_p(differences) == pytest.approx(np.mean([flip >= seen for flip in flips]))


@pytest.mark.parametrize(("pairs", "p"), [(2, 0.5), (3, 0.25), (5, 0.0625), (16, 2.0**-15)])
def test_the_smallest_p_is_reached_when_all_differences_agree(pairs, p):
    assert own.sign_flip_p([0.1 + 0.01 * i for i in range(pairs)]) == p == own.smallest_p(pairs)


def test_beyond_sixteen_pairs_flips_are_drawn_by_a_fixed_seed():
    rng = np.random.default_rng(3)
    differences = rng.normal(0.3, 1, 20)
    p = own.sign_flip_p(differences)
    assert p == own.sign_flip_p(differences)
    # The sampled p is near the normal approximation of the same statistic.
    z = abs(differences.sum()) / np.sqrt((differences**2).sum())
    assert p == pytest.approx(2 * stats.norm.sf(z), rel=0.15)
    assert own.sign_flip_p(np.full(30, 0.1)) <= 3 / 100_001


def test_no_differences_and_too_few():
    assert own.sign_flip_p([0.0, 0.0, 0.0]) == 1
    assert own.sign_flip_p([0.3]) is None


def test_paired_difference_pairs_by_order_and_seed():
    arm = {("a", 0): 0.6, ("a", 1): 0.7, ("a", 2): 0.8, ("b", 9): 0.1}
    lora = {("a", 0): 0.5, ("a", 1): 0.5, ("a", 2): 0.5, ("c", 9): 0.9}
    result = own.paired_difference(arm, lora)
    half = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert (result.mean, result.low, result.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert (result.pairs, result.p) == (3, 0.25)
    assert own.paired_difference(arm, {("z", 0): 1.0}) is None


def test_one_pair_has_a_difference_and_nothing_else():
    result = own.paired_difference({("a", 0): 0.6}, {("a", 0): 0.5})
    assert (result.mean, result.low, result.high, result.pairs, result.p) == (pytest.approx(0.1), None, None, 1, None)
    assert own.minimum_detectable_effect(result) is None


def test_columns_are_tested_alike_one_by_one_or_together():
    rng = np.random.default_rng(5)
    for pairs in (2, 9, 15, 16, 18):
        gaps = rng.normal(0.2, 1, (pairs, 4))
        together = own.sign_flip_ps(gaps)
        assert together.tolist() == [own.sign_flip_p(column) for column in gaps.T]
    reference = {(order, seed): 0.5 for order in "ab" for seed in range(3)}
    arms = {"x": {key: 0.5 + 0.01 * i for i, key in enumerate(reference)}, "y": {("a", 1): 0.7}, "z": {("q", 0): 1.0}}
    found = own.paired_differences(arms, reference)
    assert list(found) == ["x", "y"]
    assert found["x"] == own.paired_difference(arms["x"], reference)
    assert found["y"].pairs == 1


@pytest.mark.parametrize(("pairs", "tests"), [(20, 1), (30, 4)])
def test_minimum_detectable_effect_equals_that_of_statsmodels(pairs, tests):
    gap = own.Paired(0.0, None, None, pairs, 1.0, error=0.02 / np.sqrt(pairs), df=pairs - 1)
    effect = TTestPower().solve_power(nobs=pairs, alpha=0.05 / tests, power=0.8)
    assert own.minimum_detectable_effect(gap, tests) == pytest.approx(0.02 * effect, rel=1e-5)


def test_where_no_p_can_be_small_enough_nothing_is_detectable():
    def gap(pairs):
        return own.Paired(0.0, None, None, pairs, 1.0, error=0.01, df=pairs - 1)

    assert own.minimum_detectable_effect(gap(5)) is None, "five pairs can't go below p = .0625"
    assert own.minimum_detectable_effect(gap(6), 2) is None, "2 / 2^6 = .031 is above .025"
    # Of 7 pairs every p is a multiple of 1/64: the level .025 means 1/64.
    exact = own.minimum_detectable_effect(gap(7), 2)
    assert exact == pytest.approx(0.01 * own._noncentrality(6, 1 / 64))
    assert exact > 0.01 * own._noncentrality(6, 0.025)


def _scores(means, spread=0.001, seed=0):
    """Arm -> values of 5 seeds in 3 orders: its mean plus a luck that all arms share plus noise of its own."""
    rng = np.random.default_rng(seed)
    luck = rng.normal(0, 0.05, 15)
    keys = [(order, seed) for order in "abc" for seed in range(5)]
    return {n: dict(zip(keys, m + luck + rng.normal(0, spread, 15), strict=True)) for n, m in means.items()}


def test_tie_groups_of_clear_and_of_equal_arms():
    assert own.tie_groups(_scores({"c": 0.5, "a": 0.7, "b": 0.6})) == {"a": 1, "b": 2, "c": 3}
    equal = own.tie_groups(_scores({"a": 0.5, "b": 0.5, "c": 0.5}))
    assert set(equal.values()) == {1}
    assert own.tie_groups(_scores({"x": 0.7, "y": 0.7, "z": 0.5})) == {"x": 1, "y": 1, "z": 2}


def test_a_wide_spread_stays_with_the_best_until_shown_worse():
    arms = _scores({"best": 0.70, "near": 0.69})
    arms["wild"] = {key: value - 0.02 + 0.1 * (-1) ** i for i, (key, value) in enumerate(arms["best"].items())}
    assert own.tie_groups(arms) == {"best": 1, "near": 2, "wild": 1}


def test_three_seeds_can_tell_no_arms_apart():
    arms = {name: {("a", seed): mean + 0.001 * seed for seed in range(3)} for name, mean in (("a", 0.9), ("b", 0.1))}
    assert own.tie_groups(arms) == {"a": 1, "b": 1}
    assert own.tie_groups({}) == {}


def test_the_interquartile_mean_is_the_mean_of_the_middle_half():
    assert own.interquartile_mean([0, 1, 2, 3, 4, 5, 6, 100]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert own.interquartile_mean([]) is None


def test_holm():
    # Sorted .01, .02, .03: 3 x .01, 2 x .02, then at least the one before.
    assert own.holm([0.03, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert own.holm([0.6, 0.7]) == [1, 1]
    assert own.holm([None]) == [None]
    assert own.holm([]) == []


@settings(max_examples=10, deadline=None)  # statsmodels collects garbage on every call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_is_that_of_statsmodels(p_values):
    assert own.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-15)


# -- items of one task ------------------------------------------------------------------------------------------------


def test_a_paired_change_by_hand():
    # 10 items, 4 lost and 1 gained: mean -0.3, sum of squares 5, variance (5 - 10 x 0.09) / 9 = 4.1 / 9.
    before = [True] * 6 + [False] * 4
    after = [False] * 4 + [True] * 3 + [False] * 3
    found = own.paired_change(before, after)
    assert found.mean == pytest.approx(-0.3)
    assert found.error == pytest.approx(np.sqrt(4.1 / 9 / 10))
    assert found.p == pytest.approx(2 * (1 + 5) / 2**5), "one or none of five, both sides"


def test_items_that_did_not_change_say_nothing_of_a_difference():
    before, after = [True, False, True], [False, True, True]
    more = own.paired_change(before + [True] * 50, after + [True] * 50)
    assert own.paired_change(before, after).p == more.p == 1
    assert (own.paired_change(before, before).mean, own.paired_change(before, before).error) == (0, 0)
    assert own.paired_change(before, before).p == 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_a_paired_change_is_the_mean_of_the_differences(pairs):
    before, after = zip(*pairs, strict=True)
    found, back = own.paired_change(before, after), own.paired_change(after, before)
    differences = np.array(after, float) - np.array(before, float)
    assert found.mean == pytest.approx(differences.mean())
    assert found.error == pytest.approx(differences.std(ddof=1) / np.sqrt(len(pairs)))
    assert (back.mean, back.error, back.p) == pytest.approx((-found.mean, found.error, found.p))


def test_other_items_are_not_a_pair():
    for before, after in (([True], [True, False]), ([], [])):
        with pytest.raises(ValueError, match="same items"):
            own.paired_change(before, after)
