"""Known answers, computed by hand, and properties of the continual-learning metrics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.analysis import continual

# Rows: base, after task 1, 2, 3.
R = [
    [0.10, 0.20, 0.30],
    [0.80, 0.30, 0.20],
    [0.60, 0.90, 0.50],
    [0.50, 0.70, 0.75],
]
ONE = [[0.2], [0.7]]

matrices = st.integers(1, 6).flatmap(
    lambda tasks: arrays(float, (tasks + 1, tasks), elements=st.floats(0, 1, allow_nan=False))
)


def test_average_accuracy():
    assert continual.average_accuracy(R) == pytest.approx((0.50 + 0.70 + 0.75) / 3)
    assert continual.average_accuracy(ONE) == 0.7


def test_average_accuracy_over_time():
    assert continual.average_accuracy_over_time(R) == pytest.approx((0.80 + (0.60 + 0.90) / 2 + 1.95 / 3) / 3)
    assert continual.average_accuracy_over_time(ONE) == 0.7


def test_backward_transfer():
    assert continual.backward_transfer(R) == pytest.approx(((0.50 - 0.80) + (0.70 - 0.90)) / 2)
    assert continual.backward_transfer_trace(R) == pytest.approx(((0.50 - 0.80) + (0.70 - 0.90)) / 3)


def test_forgetting():
    assert continual.forgetting(R) == pytest.approx(((0.80 - 0.50) + (0.90 - 0.70)) / 2)
    assert continual.forgetting_over_stream(R) == [None, pytest.approx(0.20), pytest.approx(0.25)]


def test_forgetting_peaks_between_the_base_row_and_the_last():
    # Task 1 peaks after task 2 (0.9, above its 0.8 just after learning); the base row has 0.99.
    peaked = [[0.99, 0, 0], [0.8, 0, 0], [0.9, 0.5, 0], [0.6, 0.7, 1]]
    assert continual.forgetting(peaked) == pytest.approx(((0.9 - 0.6) + (0.5 - 0.7)) / 2)
    # A task that ends above all its peaks was not forgotten but improved: negative.
    assert continual.forgetting([[0, 0], [0.5, 0], [0.7, 0.6]]) == pytest.approx(-0.2)


def test_forward_transfer():
    assert continual.forward_transfer(R) == pytest.approx(((0.30 - 0.20) + (0.50 - 0.30)) / 2)


def test_learning_accuracy():
    assert continual.learning_accuracy(R) == pytest.approx((0.80 + 0.90 + 0.75) / 3)


def test_normalised_forgetting():
    assert continual.normalised_forgetting(R) == pytest.approx((0.30 + 0.20) / (0.70 + 0.70))


def test_normalised_forgetting_is_none_without_a_gain():
    # T = 3: the denominator must exceed 0.04; here it is 0.03.
    assert continual.normalised_forgetting([[0.5, 0.5, 0], [0.52, 0, 0], [0.5, 0.51, 0], [0.4, 0.4, 0]]) is None
    assert continual.normalised_forgetting(np.full((4, 3), 0.3)) is None


def test_intransigence():
    assert continual.intransigence(R, [0.85, 0.95, 0.80]) == pytest.approx((0.05 + 0.05 + 0.05) / 3)
    with pytest.raises(ValueError, match="3 finite scores"):
        continual.intransigence(R, [0.9])


def test_one_task_has_no_transfer_and_no_forgetting():
    for metric in ("backward_transfer", "backward_transfer_trace", "forgetting", "forward_transfer",
                   "normalised_forgetting"):  # fmt: skip
        assert getattr(continual, metric)(ONE) is None
    assert continual.learning_accuracy(ONE) == 0.7


def test_general_delta_is_a_mean_over_probes_none_with_a_hole():
    assert continual.general_delta([(0.5, None, 0.4), (0.3, 0.2, 0.35)]) == pytest.approx((-0.1 + 0.05) / 2)
    assert continual.general_delta([(0.5, 0.4), (0.3, None)]) is None
    assert continual.general_delta([]) is None


def test_plain_text_delta():
    assert continual.plain_text_delta((1.0, None, 1.25)) == pytest.approx(0.25)
    assert continual.plain_text_delta((None, 1.0)) is None
    assert continual.plain_text_delta(()) is None


@pytest.mark.parametrize("bad", [[[0.1, 0.2]], [0.1, 0.2], np.zeros((3, 3)), np.zeros((1, 0)), [[0.1], [float("nan")]]])
def test_wrong_shapes_and_values_are_refused(bad):
    with pytest.raises(ValueError, match="accuracy matrix"):
        continual.average_accuracy(bad)


@given(matrices)
def test_forgetting_is_at_least_minus_backward_transfer(matrix):
    forgetting, transfer = continual.forgetting(matrix), continual.backward_transfer(matrix)
    assert (forgetting is None) == (transfer is None) == (matrix.shape[1] == 1)
    if forgetting is not None and transfer is not None:
        assert forgetting >= -transfer - 1e-12


@given(st.integers(2, 6), st.floats(0, 1))
def test_a_constant_matrix_moves_nothing(tasks, level):
    matrix = np.full((tasks + 1, tasks), level)
    assert continual.forgetting(matrix) == continual.backward_transfer(matrix) == 0
    assert continual.forward_transfer(matrix) == 0
    assert continual.average_accuracy(matrix) == pytest.approx(level)
    assert continual.average_accuracy_over_time(matrix) == pytest.approx(level)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_an_untouched_model_forgets_nothing(base):
    matrix = np.tile(base, (len(base) + 1, 1))
    assert continual.forgetting(matrix) == 0
    assert continual.forgetting_over_stream(matrix)[1:] == [0] * (len(base) - 1)
    assert continual.normalised_forgetting(matrix) is None


@given(matrices)
def test_the_trace_divisor_shrinks_backward_transfer(matrix):
    tasks, value = matrix.shape[1], continual.backward_transfer(matrix)
    if value is not None:
        assert continual.backward_transfer_trace(matrix) == pytest.approx(value * (tasks - 1) / tasks)
