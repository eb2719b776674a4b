"""LAPACK's functions without the lock: the numbers of scipy's wrappers, the lock given back, errors that are told."""

from __future__ import annotations

import ctypes
import sys
import threading

import numpy as np
import pytest
from matrices import random
from scipy.linalg import LinAlgError, eigh_tridiagonal, eigvalsh_tridiagonal, get_lapack_funcs

from harness.analysis.intruders import lapack

SIZES = [2, 3, 33, 150]


def symmetric(p: int) -> np.ndarray:
    matrix = random((p, p + 3)).numpy()
    return matrix @ matrix.T


@pytest.mark.parametrize("p", SIZES)
def test_reductions_are_bit_for_bit_those_of_scipy(p):
    (reduce,) = get_lapack_funcs(("sytrd",), dtype=np.float64)
    wanted = reduce(symmetric(p), lwork=lapack.PANEL * p, lower=True)
    ours = lapack.Reduced.of(symmetric(p))
    for array, like in zip((ours.reflections.T, ours.diagonal, ours.beside, ours.factors), wanted[:4], strict=True):
        assert np.array_equal(np.tril(array) if array.ndim == 2 else array, np.tril(like) if like.ndim == 2 else like)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("p", SIZES)
def test_pairs_are_bit_for_bit_those_of_scipy(p, blocks):
    reduced = lapack.Reduced.of(symmetric(p))
    if blocks == 2:
        reduced.beside[p // 2 - 1] = 0
    count = min(11, p - 1)
    values, vectors = eigh_tridiagonal(reduced.diagonal, reduced.beside, select="i", select_range=(p - count, p - 1))
    ours = lapack.top_pairs(reduced.diagonal, reduced.beside, count)
    assert np.array_equal(ours[0], values)
    assert np.array_equal(ours[1], vectors.T)
    alone = eigvalsh_tridiagonal(reduced.diagonal, reduced.beside, select="i", select_range=(p - 1, p - 1))
    assert np.array_equal(lapack.top_values(reduced.diagonal, reduced.beside, 1), alone)


@pytest.mark.parametrize("p", [1, *SIZES])
def test_the_reflections_make_the_matrix(p):
    """Rows of Q applied to the identity are Q^T: the matrix is Q T Q^T."""
    reduced, turned = lapack.Reduced.of(symmetric(p)), np.eye(p)
    reduced.times_q(turned)
    whole = np.diag(reduced.diagonal) + np.diag(reduced.beside, 1) + np.diag(reduced.beside, -1)
    assert turned.T @ whole @ turned == pytest.approx(symmetric(p), rel=1e-12, abs=1e-12)


def test_other_threads_go_on_during_a_call():
    """No thread is made to give up the lock here, so another one has it only if the call gives it back."""
    matrix, gate, ran = symmetric(1500), threading.Lock(), threading.Event()  # a tenth of a second

    def other() -> None:
        with gate:
            ran.set()

    interval, thread = sys.getswitchinterval(), threading.Thread(target=other)
    lapack.Reduced.of(symmetric(3))  # the first call of all imports something, and that gives it back too
    gate.acquire()
    sys.setswitchinterval(3600)
    try:
        thread.start()
        gate.release()
        assert not ran.is_set()
        lapack.Reduced.of(matrix)
        assert ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        thread.join()


def test_what_lapack_refuses_is_told():
    with pytest.raises(LinAlgError, match="dstebz: info"):
        lapack.top_values(np.ones(5), np.ones(4), 6)


@pytest.mark.parametrize("matrix", [np.eye(6, dtype=np.float32), np.eye(6)[:, ::2], np.eye(12)[::2, ::2]])
def test_arrays_of_another_kind_are_refused(matrix):
    """LAPACK would write beyond them."""
    with pytest.raises(ctypes.ArgumentError):
        lapack.Reduced.of(matrix)
