"""The sign-flip test: a check without a distribution."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.analysis import statistics as own


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=7))
def test_sign_flip_p_is_the_enumeration(differences):
    seen = abs(sum(differences))
    flips = [abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
             for signs in itertools.product((1, -1), repeat=len(differences))]  # fmt: skip
    assert own.sign_flip_p(differences) == pytest.approx(np.mean([flip >= seen for flip in flips]))


@pytest.mark.parametrize(("pairs", "p"), [(2, 0.5), (3, 0.25), (5, 0.0625), (16, 2.0**-15)])
def test_the_smallest_p_is_reached_when_all_differences_agree(pairs, p):
    assert own.sign_flip_p([0.1 + 0.01 * i for i in range(pairs)]) == p


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


def test_below_six_pairs_no_sign_flip_can_reject():
    assert own.sign_flip_p([1.0] * (own.LEAST_PAIRS - 1)) >= own.LEVEL > own.sign_flip_p([1.0] * own.LEAST_PAIRS)


def test_columns_are_tested_alike_one_by_one_or_together():
    rng = np.random.default_rng(5)
    for pairs in (2, 9, 15, 16, 18):
        gaps = rng.normal(0.2, 1, (pairs, 4))
        assert own.sign_flip_ps(gaps).tolist() == [own.sign_flip_p(column) for column in gaps.T]


def test_patterns_are_the_same_however_many_are_drawn_at_once(monkeypatch):
    gaps = np.random.default_rng(7).normal(0.2, 1, (18, 3))
    whole = own.sign_flip_ps(gaps).tolist()
    monkeypatch.setattr("harness.analysis.statistics.sign_flip.FLIPS_AT_ONCE", 8192)
    assert own.sign_flip_ps(gaps).tolist() == whole
