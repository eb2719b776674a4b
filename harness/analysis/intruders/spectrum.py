"""Singular value decompositions of base matrices: what every adapter on them is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from harness.analysis.intruders.threads import side_by_side

Turn = Callable[[], AbstractContextManager[None]]

EPS = torch.finfo(torch.float64).eps
#: Singular values nearer than this share of the largest one have no distinct singular vectors.
SAME = 1e-12


def rounding(p: int, dtype: torch.dtype = torch.float64) -> float:
    """Backward error of a decomposition of size p, in units of its largest value.

    LAPACK's grows as the root of the size: vectors are orthogonal up to 13 to 20 eps at 64 and up to 65 at 2,048.
    """
    return max(64, 2 * p**0.5) * torch.finfo(dtype).eps


@dataclass(frozen=True)
class Spectrum:
    """Thin SVDs of S base matrices W0 = U D V^T of one shape [m, n] in fp64, p = min(m, n); vectors are rows."""

    u: Tensor  #: [S, p, m], U^T
    d: Tensor  #: [S, p], falling
    v: Tensor  #: [S, p, n], V^T

    @property
    def wide(self) -> bool:
        """m <= n: the left singular vectors are a basis of the whole space."""
        return self.u.shape[-1] <= self.v.shape[-1]

    def __getitem__(self, which: slice) -> Spectrum:
        return Spectrum(self.u[which], self.d[which], self.v[which])

    def to(self, device: torch.device) -> Spectrum:
        return Spectrum(self.u.to(device), self.d.to(device), self.v.to(device))

    def weights(self) -> Tensor:
        """The matrices [S, m, n]."""
        return (self.u.mT * self.d[:, None, :]) @ self.v

    @cached_property
    def levels(self) -> Levels:
        return Levels(self.d)


@dataclass(frozen=True)
class Levels:
    """The singular values of S matrices, and how well they tell the vectors apart."""

    d: Tensor  #: [S, p], falling

    @cached_property
    def clusters(self) -> Tensor | None:
        """[S, p]: the number of the group of equal singular values that each belongs to; None where all differ."""
        apart = self._gaps > SAME * self.d[:, :1]
        if bool(apart.all()):
            return None
        return torch.cat([torch.zeros_like(apart[:, :1]), apart], dim=1).long().cumsum(dim=1)

    @cached_property
    def errors(self) -> Tensor:
        """[S, p]: how far rounding may have turned each singular vector towards others."""
        gaps = torch.where(self._gaps > SAME * self.d[:, :1], self._gaps, torch.inf)
        gaps = torch.nn.functional.pad(gaps, (1, 1), value=torch.inf)
        return rounding(self.d.shape[1]) * self.d[:, :1] / torch.minimum(gaps[:, :-1], gaps[:, 1:])

    @property
    def _gaps(self) -> Tensor:
        return self.d[:, :-1] - self.d[:, 1:]


def spectrum(weights: Tensor) -> Spectrum:
    """The SVDs of base matrices [S, m, n], in fp64; paid once a model (:mod:`harness.engine.spectra` caches them).

    One matrix a thread, on a GPU one after another: batched SVDs are no faster.
    """
    return _stacked(side_by_side(_tall_svd, weights.unbind(), weights.device), weights[0])


def spectrum_on_host(weights: Sequence[Tensor], turn: Turn = nullcontext) -> Spectrum:
    """The same of matrices [m, n] on a GPU, put together on the host: there one matrix is at work at a time.

    Each of them within a ``turn``.
    """
    parts = []
    for weight in weights:
        with turn():
            parts.append([part.cpu() for part in _tall_svd(weight)])
    return _stacked(parts, weights[0])


def _tall_svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a wide matrix that of its transpose: LAPACK takes 320 ms for [576, 1536] and 176 for [1536, 576]."""
    tall = weight.mT.contiguous() if _is_wide(weight) else weight
    return torch.linalg.svd(tall.double(), full_matrices=False)


def _stacked(parts: Sequence[Sequence[Tensor]], like: Tensor) -> Spectrum:
    u, d, v = (torch.stack(part) for part in zip(*parts, strict=True))
    u = u.mT.contiguous()
    return Spectrum(v, d, u) if _is_wide(like) else Spectrum(u, d, v)


def _is_wide(matrix: Tensor) -> bool:
    return matrix.shape[0] < matrix.shape[1]
