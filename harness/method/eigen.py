"""A few eigenvectors of symmetric matrices, for starts and rules that need no more of them.

On a CPU LAPACK takes those alone: of 1536 x 1536 the 8 at an end come in a fifth of the time of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Multiply-adds of the eigenvectors of a symmetric matrix [n, n] in fp64, in n^3: a few at one end, and all.  Measured
#: against products of that size, 576 and 1536 on one thread: 1.8 and 1.8, 6.2 and 7.6.
FEW, ALL = 2.0, 7.0


def smallest(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(values [count], vectors [n, count]) of the smallest eigenvalues, rising, of a finite symmetric [n, n] in fp64.

    As many as there are, where ``count`` is larger than n.
    """
    return _between(matrix, 0, min(count, len(matrix)))


def largest(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same of the largest, falling."""
    size = len(matrix)
    values, vectors = _between(matrix, size - min(count, size), size)
    return values.flip(0), vectors.flip(1)


def _between(matrix: Tensor, first: int, end: int) -> tuple[Tensor, Tensor]:
    """Pairs ``first`` to ``end`` - 1 by rising value."""
    if first == end:
        return matrix.new_zeros(0), matrix.new_zeros(len(matrix), 0)
    if matrix.device.type != "cpu" or 3 * (end - first) > len(matrix):  # of so many all take less
        values, vectors = torch.linalg.eigh(matrix)
        return values[first:end], vectors[:, first:end]
    from scipy.linalg import eigh  # takes a while to import, and where nothing trains nobody needs it

    found = eigh(matrix.numpy(), subset_by_index=(first, end - 1), driver="evr")
    values, vectors = map(torch.from_numpy, found)
    return values, vectors
