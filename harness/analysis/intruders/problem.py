"""The eigenproblem behind the singular vectors of W0 + dW, in the basis of W0's vectors: diagonal plus low rank.

With W0 = U D V^T, p = min(m, n), X = U^T B and Y = V^T A^T (scaling is part of B):

* m <= n: in the basis U, W W^T is D^2 + P X^T + X P^T with P = D Y + X (A A^T) / 2.  Its eigenvectors are the left
  singular vectors in coordinates of U, so the cosines with all of W0's vectors are simply their entries.
* m > n: in the basis V, W^T W is D^2 + Q Y^T + Y Q^T with Q = D X + Y (B^T B) / 2; the left singular vector of an
  eigenvector v has the coordinates (D v + X (Y^T v)) / sigma in U.

Of an update of low rank nothing of size p x p is formed; for any other W W^T or W^T W is, in the basis that W is given
in (:mod:`.dense`).  In fp64 squaring costs the
top k no accuracy that matters, and what it costs is part of every bound (:mod:`.certificate`).  All vectors are rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from harness.analysis.intruders.spectrum import EPS, Spectrum


@dataclass(frozen=True)
class Eigenproblems:
    """N matrices G = diag(d2) + L^T R + R^T L of size p x p."""

    d2: Tensor  #: [N, p], falling
    low: Tensor  #: [N, 2r, p]: L, then R
    swapped: Tensor  #: [N, 2r, p]: R, then L

    @classmethod
    def of(cls, d2: Tensor, left: Tensor, right: Tensor) -> Eigenproblems:
        return cls(d2, torch.cat([left, right], dim=1), torch.cat([right, left], dim=1))

    def __getitem__(self, which: Tensor) -> Eigenproblems:
        return Eigenproblems(self.d2[which], self.low[which], self.swapped[which])

    def times(self, vectors: Tensor) -> Tensor:
        """G v of every row of ``vectors`` [N, b, p]."""
        return torch.baddbmm(self.d2[:, None, :] * vectors, vectors @ self.swapped.mT, self.low)

    def dense(self) -> Tensor:
        """[N, p, p]."""
        return torch.diag_embed(self.d2) + self.low.mT @ self.swapped

    def coupling(self) -> Tensor:
        """J [2r, 2r] with G = diag(d2) + low^T J low; it is its own inverse."""
        r = self.low.shape[1] // 2
        return torch.eye(2 * r, dtype=torch.float64, device=self.d2.device).roll(r, dims=0)


@dataclass(frozen=True)
class WholeProblems:
    """N matrices G that are given whole, in whatever basis."""

    matrix: Tensor  #: [N, p, p]

    def __getitem__(self, which: Tensor) -> WholeProblems:
        return WholeProblems(self.matrix[which])

    @cached_property
    def scale(self) -> Tensor:
        """[N]: the largest number of each."""
        return self.matrix.diagonal(dim1=1, dim2=2).amax(-1).clamp(min=torch.finfo(self.matrix.dtype).tiny)

    @cached_property
    def single(self) -> Tensor:
        """[N, p, p]: G / scale in float32, for what needs few digits."""
        return (self.matrix / self.scale[:, None, None]).float()

    def times(self, vectors: Tensor) -> Tensor:
        """G v of every row of ``vectors`` [N, b, p]."""
        return vectors @ self.matrix


def gram(matrices: Tensor) -> Tensor:
    """W W^T or W^T W, whichever is smaller, of [N, m, n]."""
    wide = matrices.shape[1] <= matrices.shape[2]
    if matrices.device.type == "cpu":  # by numpy, which computes one half alone: 9 ms for [1536, 576] instead of 15
        array = matrices.numpy()
        return torch.from_numpy(array @ array.mT if wide else array.mT @ array)
    return matrices @ matrices.mT if wide else matrices.mT @ matrices


@dataclass(frozen=True)
class Update:
    """What N updates B A do to their base matrices, in the base's coordinates."""

    x: Tensor  #: [N, r, p]: (U^T B)^T
    y: Tensor  #: [N, r, p]: A V
    d: Tensor  #: [N, p]
    wide: bool
    a_gram: Tensor  #: A A^T [N, r, r]
    b_gram: Tensor  #: B^T B [N, r, r]
    sigmas: Tensor  #: [N, r]: singular values of B A, falling
    mix: Tensor  #: [N, r, r]: row i of mix x is the i-th left singular vector of B A, but for its length

    @classmethod
    def of(cls, base: Spectrum, a: Tensor, b: Tensor) -> Update:
        """Of A [S, T, r, n] and B [S, T, m, r], in fp64, on S base matrices; N = S T."""
        size, trials, rank = a.shape[:3]
        b = b.mT
        x = (b.reshape(size, trials * rank, -1) @ base.u.mT).view(size * trials, rank, -1)
        y = (a.reshape(size, trials * rank, -1) @ base.v.mT).view(size * trials, rank, -1)
        a_gram, b_gram = ((f @ f.mT).flatten(0, 1) for f in (a, b))
        sigmas, mix = _core(a_gram, b_gram)
        d = base.d.repeat_interleave(trials, dim=0)
        return cls(x, y, d, base.wide, a_gram, b_gram, sigmas, mix)

    def __getitem__(self, which: Tensor) -> Update:
        return Update(*(value if value is self.wide else value[which] for value in vars(self).values()))

    def problems(self) -> Eigenproblems:
        d = self.d[:, None, :]
        if self.wide:
            return Eigenproblems.of(self.d**2, torch.baddbmm(d * self.y, self.a_gram, self.x, alpha=0.5), self.x)
        return Eigenproblems.of(self.d**2, torch.baddbmm(d * self.x, self.b_gram, self.y, alpha=0.5), self.y)

    def directions(self, count: int) -> Tensor:
        """[N, 2 count, p]: directions, beside W0's vectors, in which the eigenvectors must be sought.

        The ``count`` largest singular vectors of B A on the problem's side, and W0's images of their partners.
        """
        left, right = self.mix[:, :count], self.mix[:, :count] @ self.b_gram
        ours, partners = (left @ self.x, right @ self.y) if self.wide else (right @ self.y, left @ self.x)
        return torch.cat([ours, self.d[:, None, :] * partners], dim=1)

    def coordinates(self, vectors: Tensor, sigmas: Tensor) -> Tensor:
        """Coordinates in U [N, k, p] of the left singular vectors that belong to eigenvectors [N, k, p]."""
        if self.wide:
            return vectors
        left = torch.baddbmm(self.d[:, None, :] * vectors, vectors @ self.y.mT, self.x)
        return left / positive(sigmas)


def positive(sigmas: Tensor) -> Tensor:
    """[..., 1], to divide by."""
    return sigmas[..., None].clamp(min=torch.finfo(torch.float64).tiny)


def _core(a_gram: Tensor, b_gram: Tensor) -> tuple[Tensor, Tensor]:
    """(singular values [N, r] of B A, falling; mix [N, r, r]) from A A^T and B^T B alone.

    Values below 5e-8 of the largest are rounding (the Gram matrices are squares) and become 0.
    """
    values, vectors = torch.linalg.eigh(a_gram)
    root = vectors * values.clamp(min=0).sqrt()[:, None, :]
    values, inner = torch.linalg.eigh(root.mT @ b_gram @ root)
    return roots(values), (root @ inner).mT.flip(1)


def roots(values: Tensor) -> Tensor:
    """Singular values [N, r], falling, from the rising eigenvalues of a Gram matrix; those of rounding become 0."""
    values = values.flip(-1)
    return torch.where(values > 8 * values.shape[-1] * EPS * values[:, :1], values, 0.0).sqrt()
