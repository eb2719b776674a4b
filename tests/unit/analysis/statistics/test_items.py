"""A change over the same test items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis import statistics as own


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
