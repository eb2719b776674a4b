"""Norm and effective rank of changes from tridiagonal matrices: those of all singular values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matrices import random

from harness.analysis.intruders.problem import gram
from harness.analysis.intruders.tridiagonal import effective_ranks, householder, largest, top_pairs, tridiagonal

SPECTRA = {
    "equal": lambda n: np.ones_like(n),
    "one": lambda n: 1.0 * (n == 0),
    "eight": lambda n: 1.0 * (n < 8),
    "power law": lambda n: 1 / (1 + n),
    "steep": lambda n: 0.9**n,
    "noise below one": lambda n: np.where(n == 0, 1.0, 1e-4),
    "pairs": lambda n: 0.95 ** (n // 2),
}


def with_singular_values(values: np.ndarray, columns: int, seed: int = 0) -> torch.Tensor:
    left, _, right = torch.linalg.svd(random((len(values), columns), seed), full_matrices=False)
    return left * torch.from_numpy(values) @ right


def entropy_rank(values: np.ndarray) -> float:
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


@pytest.mark.parametrize("p", [1, 2, 3, 31, 32, 33, 64, 65, 150])
def test_reflections_side_by_side_keep_the_eigenvalues(p):
    """Of LAPACK's reduction, too; matrices of zeros, of low rank and the identity among others."""
    matrices = gram(torch.stack([random((p, p + 3), seed) for seed in range(4)]))
    matrices[1], matrices[2] = 0, torch.eye(p)
    matrices[3, 2:], matrices[3, :, 2:] = 0, 0
    wanted = np.linalg.eigvalsh(matrices.numpy())
    for diagonal, beside in (householder(matrices.clone()), tridiagonal(matrices.clone())):
        assert beside.shape == (4, p - 1)
        whole = torch.diag_embed(diagonal) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
        assert np.linalg.eigvalsh(whole.numpy()) == pytest.approx(wanted, abs=1e-14 * wanted.max())
        assert largest(diagonal, beside).numpy() == pytest.approx(wanted[:, -1], rel=1e-14)


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("p", [12, 100])
def test_top_pairs_are_those_of_all(kind, p):
    """Vectors of equal values may be any of their span, so it is the residual that counts."""
    matrices = gram(torch.stack([with_singular_values(SPECTRA[kind](np.arange(p)), p, seed) for seed in range(2)]))
    kept = matrices.clone()
    values, vectors = top_pairs(matrices, 11)
    assert torch.equal(matrices, kept)
    assert values.numpy() == pytest.approx(np.linalg.eigvalsh(matrices.numpy())[:, :-12:-1], abs=1e-14)
    assert (vectors @ matrices).numpy() == pytest.approx((values[..., None] * vectors).numpy(), abs=1e-13)
    assert (vectors @ vectors.mT).numpy() == pytest.approx(np.stack([np.eye(11)] * 2), abs=1e-12)


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_effective_rank_is_that_of_all_singular_values(kind, scale):
    values = scale * SPECTRA[kind](np.arange(200))
    reduced = tridiagonal(gram(with_singular_values(values, 230)[None]))
    top = largest(*reduced)
    assert top.numpy() ** 0.5 == pytest.approx(values[:1], rel=1e-12)
    tolerance = 3e-5 if kind == "steep" else 1e-6  # what rounding hides of the smallest
    assert effective_ranks(*reduced, top).numpy() == pytest.approx([entropy_rank(values)], rel=tolerance)


def test_what_the_docstring_says_of_the_accuracy():
    values = np.geomspace(1, 1e-5, 300)
    reduced = tridiagonal(gram(with_singular_values(values, 300)[None]))
    assert effective_ranks(*reduced, largest(*reduced)).numpy() == pytest.approx([entropy_rank(values)], rel=2e-8)


def test_a_change_of_zero_has_no_rank():
    reduced = tridiagonal(torch.zeros(2, 40, 40, dtype=torch.float64))
    assert largest(*reduced).tolist() == [0, 0]
    assert effective_ranks(*reduced, largest(*reduced)).tolist() == [0, 0]


def test_many_are_each_by_itself():
    matrices = [with_singular_values(SPECTRA[kind](np.arange(120)), 120, i) for i, kind in enumerate(SPECTRA)]
    reduced = tridiagonal(gram(torch.stack(matrices)))
    together = effective_ranks(*reduced, largest(*reduced))
    for i, matrix in enumerate(matrices):
        alone = tridiagonal(gram(matrix[None]))
        assert effective_ranks(*alone, largest(*alone)).numpy() == pytest.approx([float(together[i])], rel=1e-7)
