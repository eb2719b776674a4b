"""Known answers of sample efficiency."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis import efficiency

GRID = (0, 16, 32, 128)


def test_area_is_a_trapezoid_on_log2_n_without_the_start():
    # Gains 0.1, 0.3, 0.5 at log2 n = 4, 5, 7: (0.2 x 1 + 0.4 x 2) / 3.
    assert efficiency.sample_efficiency_auc(GRID, (0.9, 0.3, 0.5, 0.7), base=0.2) == pytest.approx(1.0 / 3)


def test_one_point_has_its_gain_and_none_has_no_area():
    assert efficiency.sample_efficiency_auc((0, 96), (0.2, 0.6), base=0.25) == pytest.approx(0.35)
    assert efficiency.sample_efficiency_auc((0,), (0.2,), base=0.2) is None


@given(st.floats(-1, 1), st.floats(0, 1))
def test_a_constant_gain_is_the_area(gain, base):
    assert efficiency.sample_efficiency_auc(GRID, [base + gain] * 4, base) == pytest.approx(gain, abs=1e-12)


def test_best_gain_and_threshold():
    assert efficiency.best_gain(GRID, (0.9, 0.3, 0.6, 0.5), base=0.2) == pytest.approx(0.4)
    assert efficiency.threshold(0.2, [0.4, 0.6]) == pytest.approx(0.2 + 0.9 * 0.5)
    assert efficiency.threshold(0.2, []) is None
    assert efficiency.threshold(0.2, [-0.1, 0.05]) is None


def test_the_level_must_hold_at_the_next_point():
    assert efficiency.first_reached(GRID, (0, 0.7, 0.6, 0.8), 0.65) == 128
    assert efficiency.first_reached(GRID, (0, 0.7, 0.7, 0.1), 0.65) == 16
    assert efficiency.first_reached(GRID, (0, 0.1, 0.2, 0.65), 0.65) == 128
    assert efficiency.first_reached(GRID, (0.9, 0.1, 0.2, 0.3), 0.65) is None


def test_tokens_are_an_axis_where_spending_none_reaches_nothing():
    assert efficiency.first_reached((0, 1000, 2000, 8000), (0, 0.7, 0.7, 0.7), 0.65) == 1000
    assert efficiency.first_reached((0, 0, 0, 0), (0.9, 0.9, 0.9, 0.9), 0.65) is None


def test_restricted_mean_counts_the_censored_with_the_limit():
    result = efficiency.restricted_mean([16, None, 200], [128, 128, 128])
    assert result == efficiency.Restricted(share=pytest.approx(1 / 3), mean=pytest.approx((16 + 128 + 128) / 3))
    assert efficiency.restricted_mean([], []) is None
    with pytest.raises(ValueError, match="as many limits"):
        efficiency.restricted_mean([1], [])


@pytest.mark.parametrize(
    ("axis", "scores"),
    [((0, 16), (0.1,)), ((0, 32, 16), (0.1, 0.2, 0.3)), ((0, 16, 16), (0.1, 0.2, 0.3)), ((0, 16), (0.1, float("nan")))],
)
def test_bad_curves_are_refused(axis, scores):
    with pytest.raises(ValueError, match="learning curve"):
        efficiency.sample_efficiency_auc(axis, scores, 0.0)
