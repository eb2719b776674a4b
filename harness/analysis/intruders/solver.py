"""Block Davidson for the top eigenvectors of diagonal-plus-low-rank matrices, many at a time.

Every step adds to the basis one vector (G - mu_j)^-1 v_j for each wanted eigenvector: inverse iteration, with all of
the basis for Rayleigh-Ritz.  By Woodbury the inverse is diagonal work and a 2r x 2r matrix for each shift mu_j,

    S_j = J + R diag(1 / (d2 - mu_j)) R^T      (R the low-rank rows; J their coupling)

Three to five steps suffice for updates of any size; with a diagonal preconditioner, as in the textbook, those of
0.3 sigma_1 and more took 10 to 60, and some did not converge.  Only the first step makes do with that one.

The basis has at most 32 vectors: on a GPU torch solves eigenproblems of up to 32 x 32 in one batch, larger ones one
after another (https://github.com/pytorch/pytorch/issues/175585).  The only number read back is how many are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.analysis.intruders.problem import Eigenproblems
from harness.analysis.intruders.spectrum import EPS

#: Vectors of the first basis; Ritz vectors kept beyond the k + 1 that are improved.
BASIS, SPARE = 32, 1
#: Largest k: k + 1 + SPARE vectors are kept and k + 1 are new.
MOST = (BASIS - SPARE) // 2 - 1
#: Steps with one set of shifts, and sets of shifts.
STEPS, ROUNDS = 3, 4
#: What is added to the diagonal of a Gram matrix of unit vectors.
RIDGE = 16 * EPS
#: Directions of the update in the first basis, of either kind; the rest are W0's vectors.
DIRECTIONS = 8


@dataclass(frozen=True)
class Ritz:
    """Approximate eigenpairs of N problems."""

    values: Tensor  #: [N, k + 1], falling; the last is only there to bound the gap
    vectors: Tensor  #: [N, k, p]


def solve(problems: Eigenproblems, directions: Tensor, k: int, tolerance: float) -> Ritz:
    """The top k eigenpairs, k <= ``MOST`` < p / 2, until residual / gap <= ``tolerance`` or no step is left.

    ``directions`` [N, e, p], e <= 2 ``DIRECTIONS``, are looked at first, beside the first coordinates.
    """
    size, p = problems.d2.shape
    basis = _start(problems.d2, directions)
    images = problems.times(basis)
    values, vectors = basis.new_empty(size, k + 1), basis.new_empty(size, k, p)
    left = torch.arange(size, device=basis.device)
    shifted: _ShiftedInverse | None = None
    for step in range(STEPS * ROUNDS + 1):
        ritz_values, rotation = rayleigh_ritz(basis, images, k + 1 + SPARE)
        ritz, images = rotation @ basis, rotation @ images
        values[left], vectors[left] = ritz_values[:, : k + 1], F.normalize(ritz[:, :k], dim=-1)
        missing = unfinished(ritz_values, ritz, images, k, tolerance)
        going = missing.any(-1).nonzero()[:, 0]
        if step == STEPS * ROUNDS or not len(going):
            break
        if len(going) < len(left):
            left, problems = left[going], problems[going]
            ritz_values, ritz, images, missing = ritz_values[going], ritz[going], images[going], missing[going]
            shifted = shifted[going] if shifted else None
        theta = ritz_values[:, : k + 1]
        if step % STEPS == 1:
            shifted = _ShiftedInverse.of(problems, theta)
        if shifted is None:  # the first shifts would be poor: one step with the diagonal alone is cheaper
            residual = images[:, : k + 1] - theta[..., None] * ritz[:, : k + 1]
            new = residual * _reciprocal(problems.d2[:, None, :] - theta[..., None], 1e-3 * theta[:, :1, None])
        else:
            new = shifted(ritz[:, : k + 1])
        new = new - (new @ ritz.mT) @ ritz
        new = F.normalize(new, dim=-1) * missing[..., None]
        basis, images = torch.cat([ritz, new], 1), torch.cat([images, problems.times(new)], 1)
    return Ritz(values, vectors)


def _start(d2: Tensor, directions: Tensor) -> Tensor:
    """The first coordinates, and the part of ``directions`` that is orthogonal to them."""
    count = BASIS - directions.shape[1]
    coordinates = torch.zeros(len(d2), count, d2.shape[1], dtype=d2.dtype, device=d2.device)
    coordinates.diagonal(dim1=1, dim2=2).fill_(1)
    rest = directions.clone()
    rest[..., :count] = 0
    return torch.cat([coordinates, F.normalize(rest, dim=-1)], dim=1)


def rayleigh_ritz(basis: Tensor, images: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """(values [N, keep] falling, rotation [N, keep, b]) of the top Ritz pairs of a basis that need not be orthonormal.

    ``RIDGE`` makes its Gram matrix definite where vectors are zero or depend on others; such directions get a value
    of about 0, which is below all that is wanted.
    """
    gram = basis @ basis.mT
    gram.diagonal(dim1=1, dim2=2).add_(RIDGE)
    root = torch.linalg.cholesky_ex(gram)[0]
    half = torch.linalg.solve_triangular(root, basis @ images.mT, upper=False)
    inner = torch.linalg.solve_triangular(root, half.mT, upper=False)
    values, vectors = torch.linalg.eigh(torch.nan_to_num(inner, nan=0.0, posinf=0.0, neginf=0.0))
    rotation = torch.linalg.solve_triangular(root.mT, vectors.flip(-1)[..., :keep], upper=True).mT
    return values.flip(-1)[:, :keep], torch.nan_to_num(rotation, nan=0.0, posinf=0.0, neginf=0.0)


def unfinished(ritz_values: Tensor, ritz: Tensor, images: Tensor, k: int, tolerance: float) -> Tensor:
    """[N, k + 1]: which of the wanted k are not accurate yet; the next one counts as long as any of them does."""
    residual = (images[:, :k] - ritz_values[:, :k, None] * ritz[:, :k]).norm(dim=-1)
    below = ritz_values[:, :k] - ritz_values[:, 1 : k + 1]
    gap = torch.minimum(below, F.pad(below[:, :-1], (1, 0), value=torch.inf))
    open_ = (residual > tolerance * gap) & (residual > 32 * EPS * ritz_values[:, :1])
    return torch.cat([open_, open_.any(-1, keepdim=True)], dim=1)


@dataclass(frozen=True)
class _ShiftedInverse:
    """(G - mu_j)^-1 for j = 1 ... b shifts of each of N problems."""

    inverse: Tensor  #: [N, b, p]: 1 / (d2 - mu_j)
    low: Tensor  #: [N, 2r, p]
    core: Tensor  #: [N, b, 2r, 2r]: S_j^-1

    @classmethod
    def of(cls, problems: Eigenproblems, shifts: Tensor) -> _ShiftedInverse:
        inverse, low = (
            _reciprocal(problems.d2[:, None, :] - shifts[..., None], 1e-9 * shifts[:, :1, None]),
            problems.low,
        )
        # One product a shift: a batch of 1 x 1 x ... needs a copy of ``low`` for each
        cores = torch.stack([(low * column[:, None, :]) @ low.mT for column in inverse.unbind(1)], dim=1)
        return cls(inverse, low, torch.linalg.inv_ex(cores + problems.coupling())[0])

    def __getitem__(self, which: Tensor) -> _ShiftedInverse:
        return _ShiftedInverse(self.inverse[which], self.low[which], self.core[which])

    def __call__(self, vectors: Tensor) -> Tensor:
        """Row j of ``vectors`` [N, b, p] times the j-th inverse; zero where it is not finite."""
        scaled = self.inverse * vectors
        part = (self.core @ (scaled @ self.low.mT)[..., None])[..., 0]
        return torch.nan_to_num(scaled - self.inverse * (part @ self.low), nan=0.0, posinf=0.0, neginf=0.0)


def _reciprocal(x: Tensor, least: Tensor) -> Tensor:
    """1 / x, with |x| not below ``least``."""
    return 1 / torch.where(x.abs() < least, least.copysign(x), x)
