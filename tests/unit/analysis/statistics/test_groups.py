"""Groups of arms that can't be told apart, by tests of all pairs at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from harness.analysis import statistics as own
from harness.analysis.statistics.groups import critical_ranges, max_t_separated, range_separated

KEYS = [(order, seed) for order in "abc" for seed in range(5)]


def scores(means, spread=0.001, seed=0, keys=KEYS):
    """Arm -> values of its trials: its mean plus luck that all arms share plus noise of its own."""
    rng = np.random.default_rng(seed)
    luck = rng.normal(0, 0.05, len(keys))
    noise = spread if isinstance(spread, dict) else dict.fromkeys(means, spread)
    return {n: dict(zip(keys, m + luck + rng.normal(0, noise[n], len(keys)), strict=True)) for n, m in means.items()}


def grouped(arms):
    """With the noise of these arms themselves."""
    keys = sorted(next(iter(arms.values())))
    values = np.array([[arms[name][key] for name in arms] for key in keys])
    strata = [key[0] for key in keys]
    return own.tie_groups(arms, own.block_residual(values, strata) if not own.refusal(len(arms), strata) else None)


def test_groups_of_clear_and_of_equal_arms():
    found = grouped(scores({"c": 0.5, "a": 0.7, "b": 0.6}))
    assert (found.numbers, found.test) == ({"a": 1, "b": 2, "c": 3}, "range")
    assert set(grouped(scores({"a": 0.5, "b": 0.5, "c": 0.5})).numbers.values()) == {1}
    assert grouped(scores({"x": 0.7, "y": 0.7, "z": 0.5})).numbers == {"x": 1, "y": 1, "z": 2}


def test_one_order_is_tukeys_test_of_scipy_without_blocks():
    """Of values that share no luck, the range is scipy's; it has the blocks' degrees of freedom more."""
    rng = np.random.default_rng(4)
    values = rng.normal([0, 0.2, 0.6, 1.0], size=(31, 4))
    residual = own.block_residual(values, [0] * 31)
    apart = range_separated(values, [0] * 31, residual)
    theirs = stats.tukey_hsd(*values.T).pvalue < own.LEVEL
    assert apart.tolist() == theirs.tolist()
    assert apart.any()
    assert not apart.all()


def test_critical_ranges_are_scipys_rounded_to_the_safe_side():
    exact = stats.studentized_range.isf(0.05, 5, [8, 38, 110])
    found = critical_ranges(5, np.array([8.0, 38.0, 110.0]))
    assert found[0] == pytest.approx(exact[0])
    assert (found >= exact - 1e-9).all()
    assert found == pytest.approx(exact, rel=0.015)


def test_three_seeds_tell_clear_arms_apart_where_noise_is_alike():
    keys = [("a", seed) for seed in range(3)]
    found = grouped(scores({"a": 0.9, "b": 0.5, "c": 0.1}, 0.01, keys=keys))
    assert found.numbers == {"a": 1, "b": 2, "c": 3}


def test_unlike_noise_below_six_pairs_is_not_testable():
    keys = [("a", seed) for seed in range(5)]
    spread = {"a": 0.0001, "b": 0.1, "c": 0.0001, "d": 0.0001}
    found = grouped(scores({"a": 0.9, "b": 0.5, "c": 0.1, "d": 0.2}, spread, keys=keys))
    assert (found.numbers, found.test) == ({}, None)
    assert found.untested == "it takes 6 pairs where arms are not equally noisy: here 5"


def test_unlike_noise_is_tested_by_the_largest_t():
    spread = {"best": 0.001, "near": 0.001, "wild": 0.1, "low": 0.001}
    found = grouped(scores({"best": 0.70, "near": 0.69, "wild": 0.66, "low": 0.2}, spread))
    assert found.test == "max-T"
    assert (found.numbers["best"], found.numbers["wild"]) == (1, 1), "wide, and not shown to be worse"
    assert found.numbers["near"] == 2
    assert found.numbers["low"] == 3


def test_the_largest_t_of_two_arms_is_a_sign_flip():
    rng = np.random.default_rng(3)
    for shift in (0.3, 0.6, 0.9, 1.2):
        values = rng.normal([0, shift], size=(9, 2))
        p = own.sign_flip_p(values[:, 1] - values[:, 0])
        if abs(p - own.LEVEL) > 0.02:  # permutations are drawn
            assert max_t_separated(values, [0] * 9)[0, 1] == (p < own.LEVEL)


def test_exact_ties_are_never_told_apart():
    arms = scores({"b": 0.7, "z": 0.5, "y": 0.3})
    arms["a"] = {key: value + (1e-17 if key[1] else -7e-17) for key, value in arms["b"].items()}
    assert grouped(arms).numbers == {"a": 1, "b": 1, "z": 2, "y": 3}


def test_few_arms_and_arms_without_common_seeds():
    assert grouped(scores({"a": 0.5})).numbers == {"a": 1}
    assert own.tie_groups({}, None) == own.Groups()
    apart = own.tie_groups({"a": {("a", 0): 0.1, ("a", 1): 0.2}, "b": {("b", 0): 0.1}}, None)
    assert (apart.numbers, apart.untested) == ({}, "the arms share no two seeds of every order")
