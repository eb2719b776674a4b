"""The noise that all arms share, against a linear model of statsmodels and scipy's tests."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols

from harness.analysis import statistics as own
from harness.analysis.statistics.block import bartlett_ps


def board(arms=4, orders=1, seeds=3, spread=None, seed=0):
    """[n, arms] and its strata: luck that the arms of a block share, and noise of each arm."""
    rng = np.random.default_rng(seed)
    n = orders * seeds
    noise = rng.normal(size=(n, arms)) * (1.0 if spread is None else np.asarray(spread))
    return rng.normal(0, 3, (n, 1)) + np.arange(arms) + noise, [i // seeds for i in range(n)]


def test_one_order_is_the_two_way_model_of_statsmodels():
    values, strata = board()
    table = pd.DataFrame({"y": values.ravel(), "block": np.repeat(range(3), 4), "arm": np.tile(range(4), 3)})
    fit = ols("y ~ C(block) + C(arm)", table).fit()
    found = own.block_residual(values, strata)
    assert found.df == pytest.approx(fit.df_resid) == pytest.approx(6)
    contrast = fit.t_test("C(arm)[T.2] = 0")
    assert found.errors == pytest.approx(float(contrast.sd[0, 0]))
    low, high = contrast.conf_int()[0]
    assert found.half_widths() == pytest.approx((high - low) / 2)


def test_orders_have_variances_of_their_own():
    values, strata = board(orders=3)
    each = [own.block_residual(values[i : i + 3], [0] * 3) for i in (0, 3, 6)]
    found = own.block_residual(values, strata)
    assert found.errors == pytest.approx(np.sqrt(sum(one.errors**2 for one in each)) / 3)
    variances = np.array([one.errors**2 for one in each])
    assert found.df == pytest.approx(variances.sum() ** 2 / (variances**2 / 6).sum())


def test_two_arms_have_the_residual_of_their_own_difference():
    """Why it takes three: the residual of two is their paired difference again."""
    values, _ = board(arms=2)
    gaps = values[:, 1] - values[:, 0]
    left = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    assert 2 * (left**2).sum() / 2 / 3 == pytest.approx(gaps.var(ddof=1) / 3)
    with pytest.raises(ValueError, match="3 trained arms"):
        own.block_residual(values, [0] * 3)


def test_an_order_with_one_seed_is_refused():
    assert "a single seed" in own.refusal(5, ["a", "b", "b"])
    assert "a single seed" in own.refusal(5, ["a"])
    assert own.refusal(5, ["a", "a"]) == "", "one order with two seeds has two blocks"
    with pytest.raises(ValueError, match="a single seed"):
        own.block_residual(np.zeros((1, 5)), ["a"])


def test_bartlett_is_that_of_scipy():
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(4, 6)) * np.array([[1], [1], [3], [0.5]])
    assert bartlett_ps(samples.var(axis=1, ddof=1)[:, None], 5)[0] == pytest.approx(stats.bartlett(*samples).pvalue)


def test_arms_that_are_not_equally_noisy_have_no_shared_noise():
    alike = np.mean([own.block_residual(*board(seeds=10, seed=i)).usable for i in range(300)])
    assert 0.90 <= alike <= 0.99
    wild = [own.block_residual(*board(seeds=10, spread=[1, 1, 1, 6], seed=i)).usable for i in range(50)]
    assert np.mean(wild) < 0.1
    unequal_orders = []
    for i in range(300):
        values, strata = board(orders=2, seeds=5, seed=i)
        values[5:] *= 10
        unequal_orders.append(own.block_residual(values, strata).usable)
    assert np.mean(unequal_orders) >= 0.90, "an order's noise is no arm's"


def test_boards_without_noise_have_no_interval():
    flat = own.block_residual(np.tile([0.1, 0.2, 0.4], (3, 1)), [0] * 3)
    assert not flat.usable
    stack = np.stack([board(seed=1)[0], np.tile([0.1, 0.2, 0.4, 0.5], (3, 1))], axis=2)
    assert own.block_residual(stack, [0] * 3).usable.tolist() == [True, False]
