"""Best |cosines| of many matrices with what is proven of them, on their way to :class:`~.results.Measured`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.analysis.intruders.certificate import cosines
from harness.analysis.intruders.results import EPSILONS, Measured
from harness.analysis.intruders.solver import Ritz
from harness.analysis.intruders.spectrum import Spectrum, rounding

#: Accuracy of eigenvectors that is asked for first, and where that leaves a count open.
TOLERANCES = (1e-8, 1e-12)
#: From this p on the solvers are faster than LAPACK.
SOLVER_FROM = 96


@dataclass(frozen=True)
class Sizes:
    """Of N changes dW; each [N]."""

    norm: Tensor  #: ||dW||_F
    spectral: Tensor  #: ||dW||_2
    effective_rank: Tensor  #: exp(entropy of the normalised singular values), 0 where dW = 0

    @classmethod
    def of(cls, sigmas: Tensor) -> Sizes:
        """From all singular values [N, r], falling."""
        total = sigmas.sum(-1, keepdim=True)
        rank = torch.special.entr(sigmas / torch.where(total > 0, total, 1.0)).sum(-1).exp()
        return cls(sigmas.norm(dim=-1), sigmas[:, 0], torch.where(total[:, 0] > 0, rank, 0.0))


@dataclass
class Bounds:
    """Best |cosines| of the top k vectors of N matrices with their bounds, and the singular values; each [N, k]."""

    low: Tensor
    best: Tensor
    high: Tensor
    sigmas: Tensor

    @classmethod
    def join(cls, parts: Sequence[Bounds]) -> Bounds:
        return cls(*(torch.cat(part) for part in zip(*(vars(p).values() for p in parts), strict=True)))

    def __getitem__(self, which: Tensor) -> Bounds:
        return Bounds(*(values[which] for values in vars(self).values()))

    def open(self) -> Tensor:
        """Indices of the matrices that have a cosine whose bounds enclose an epsilon."""
        epsilons = torch.tensor(EPSILONS, dtype=torch.float64, device=self.best.device)
        enclosed = (self.low[..., None] < epsilons) & (epsilons <= self.high[..., None])
        return enclosed.flatten(1).any(-1).nonzero()[:, 0]

    def put(self, where: Tensor, part: Bounds) -> None:
        for name, values in vars(part).items():
            getattr(self, name)[where] = values

    def settle(self, untouched: Tensor) -> None:
        """A matrix without an update has W0's vectors, even where those are not unique."""
        for values in (self.low, self.best, self.high):
            values.masked_fill_(untouched[:, None], 1.0)

    def measured(self, top: Tensor, sizes: Sizes, solved: Tensor, finite: Tensor) -> Measured:
        """With ||W0||_2 [N] of each one's base; ``solved`` and ``finite`` [S, T], N = S T."""
        numbers = {
            **vars(self),
            "delta_norm": sizes.norm,
            "relative_spectral_norm": sizes.spectral / torch.where(top > 0, top, torch.inf),
            "effective_rank": sizes.effective_rank,
        }
        shaped = {name: values.unflatten(0, finite.shape) for name, values in numbers.items()}
        return Measured(**{k: v.cpu().numpy() for k, v in (shaped | {"solved": solved, "finite": finite}).items()})


def by_eigh(matrix: Tensor, k: int) -> Ritz:
    """The top eigenpairs of G [N, p, p], from all of them."""
    values, vectors = torch.linalg.eigh(matrix)
    return Ritz(values.flip(-1)[:, : k + 1], vectors.mT.flip(1)[:, :k])


def full_svd(base: Spectrum, weight: Tensor, delta: Tensor, top_k: int) -> Bounds:
    """Of one matrix W [m, n], by the definition; ``delta`` is ||dW||_2."""
    u, sigmas, _ = torch.linalg.svd(weight, full_matrices=False)
    k = min(top_k, len(sigmas))
    gaps = F.pad(sigmas[:-1] - sigmas[1:], (1, 1), value=torch.inf)
    error = 2**0.5 * rounding(len(sigmas)) * (base.d[0, 0] + delta) / torch.minimum(gaps[:-1], gaps[1:])[:k]
    owner = torch.zeros(1, dtype=torch.long, device=weight.device)
    return Bounds(*cosines(base.levels, owner, (base.u[0] @ u[:, :k]).mT[None], error[None]), sigmas[None, :k])
