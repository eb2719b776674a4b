"""Holm's correction."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from harness.analysis import statistics as own


def test_holm():
    # Sorted .01, .02, .03: 3 x .01, 2 x .02, then at least the one before.
    assert own.holm([0.03, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert own.holm([0.6, 0.7]) == [1, 1]
    assert own.holm([None]) == [None]
    assert own.holm([]) == []


@settings(max_examples=10)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_is_that_of_statsmodels(p_values):
    assert own.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-15)
