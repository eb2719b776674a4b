"""A few eigenvectors, against all of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.method import eigen


def symmetric(values: Tensor, seed: int = 0) -> Tensor:
    turn = torch.linalg.qr(
        torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed)).double()
    )[0]
    return (turn * values) @ turn.mT


@pytest.mark.parametrize("count", [1, 8, 30, 60, 61])
@pytest.mark.parametrize("end", ["smallest", "largest"])
def test_they_are_those_of_the_whole_decomposition(count, end):
    matrix = symmetric(torch.logspace(0, -6, 60, dtype=torch.double))
    values, vectors = getattr(eigen, end)(matrix, count)
    all_values, all_vectors = torch.linalg.eigh(matrix)
    if end == "largest":
        all_values, all_vectors = all_values.flip(0), all_vectors.flip(1)
    assert torch.allclose(values, all_values[:count], rtol=1e-9, atol=1e-14)
    wanted = all_vectors[:, :count]
    assert torch.allclose(vectors @ vectors.mT, wanted @ wanted.mT, atol=1e-6)
    assert torch.allclose(vectors.mT @ vectors, torch.eye(min(count, 60)).double(), atol=1e-12)


def test_equal_values_have_orthonormal_vectors():
    """As those of a text that leaves many directions free."""
    matrix = symmetric(torch.tensor([0.0] * 40 + [1.0] * 20, dtype=torch.double))
    values, vectors = eigen.smallest(matrix, 8)
    assert values.abs().max() <= 1e-14
    assert (matrix @ vectors).abs().max() <= 1e-14
    assert torch.allclose(vectors.mT @ vectors, torch.eye(8).double(), atol=1e-12)
    none = torch.zeros(30, 30, dtype=torch.double)
    assert torch.allclose(eigen.largest(none, 4)[1].mT @ eigen.largest(none, 4)[1], torch.eye(4).double())


def test_none_of_them():
    values, vectors = eigen.largest(torch.eye(5, dtype=torch.double), 0)
    assert (values.shape, vectors.shape) == ((0,), (5, 0))
