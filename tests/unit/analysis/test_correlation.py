"""Correlation over trials and slopes within arms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols

from harness.analysis.correlation import within_slope


def made(arms=8, trials=6, slope=0.0, between=5.0, seed=0):
    """Trials whose arms differ in x, norm and y together, and whose y follows x by ``slope`` within arms."""
    rng = np.random.default_rng(seed)
    arm = np.repeat(range(arms), trials)
    level = rng.normal(size=arms)[arm]
    norm = between * level + rng.normal(size=len(arm))
    x = between * level + 0.5 * norm + rng.normal(size=len(arm))
    y = between * level + slope * x + 0.7 * norm + rng.normal(0, 0.3, len(arm))
    return pd.DataFrame({"arm": arm, "x": x, "norm": norm, "y": y})


def slope_of(table, **others):
    return within_slope(table.arm.tolist(), table.y.tolist(), table.x.tolist(), others)


def test_it_is_the_slope_of_a_model_with_arms():
    table = made(slope=0.4)
    fit = ols("y ~ x + norm + C(arm)", table).fit()
    deviations = table.x - table.groupby("arm").x.transform("mean")
    spread = np.sqrt((deviations**2).sum() / (len(table) - 8))
    found = slope_of(table, norm=table.norm.tolist())
    assert found.value == pytest.approx(fit.params["x"] * spread)
    assert (found.arms, found.n) == (8, 48)
    assert found.low < found.value < found.high
    assert found == slope_of(table, norm=table.norm.tolist()), "drawn by a fixed seed"


def test_what_lies_between_arms_is_no_slope_within():
    table = made(slope=0.0, arms=20)
    assert np.corrcoef(table.x, table.y)[0, 1] > 0.9
    found = slope_of(table, norm=table.norm.tolist())
    assert found.low < 0 < found.high
    assert slope_of(table).low > 0, "the norm, if not held, passes for x"


def test_the_bootstrap_covers_the_slope():
    truth = 0.4
    hits = []
    for seed in range(120):
        table = made(arms=15, slope=truth, seed=seed)
        found = slope_of(table, norm=table.norm.tolist())
        deviations = table.x - table.groupby("arm").x.transform("mean")
        hits.append(found.low <= truth * np.sqrt((deviations**2).sum() / (len(table) - 15)) <= found.high)
    assert 0.85 <= np.mean(hits) <= 0.99


def test_what_has_no_slope_is_none():
    table = made()
    assert slope_of(made(arms=4)) is None, "four arms are too few to draw from"
    assert slope_of(made(trials=1)) is None
    assert slope_of(table.assign(x=0.1 + 0.2)) is None
    assert slope_of(table.assign(y=0.3)) is None
    assert slope_of(table, copy=(2 * table.x + 1).tolist()) is None, "x varies only as another does"
    with_constant = slope_of(table, norm=[1.0] * len(table))
    assert with_constant == slope_of(table), "what does not vary holds nothing"
    with pytest.raises(ValueError, match="finite"):
        slope_of(table.assign(x=float("nan")))
