"""How far computed eigenvectors may be from the true ones, and whether they are the top ones.

Completeness: the number of eigenvalues above a cut below the k-th Ritz value, by Sylvester's law of inertia.  With
G = D^2 + R^T J R the block matrix [[D^2 - t, R^T], [R, -J]] has two Schur complements, so (Haynsworth 1968)

    n+(G - t) = n+(D^2 - t) + n+(-J - R (D^2 - t)^-1 R^T) - r,

a count of signs of one 2r x 2r matrix.  A G that is given whole has at most k eigenvalues above a cut if
G - V^T diag(theta) V has none, for whatever k vectors V (Weyl); and that has none if there is a Cholesky factorisation
of cut - G + V^T diag(theta) V.  Accuracy: an eigenvector of unit length whose residual is e and whose value is apart
from all other eigenvalues by g has sin(angle) <= e / g (Davis and Kahan 1970).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.analysis.intruders.problem import Eigenproblems, WholeProblems
from harness.analysis.intruders.solver import BASIS, Ritz
from harness.analysis.intruders.spectrum import Levels, rounding

#: Where the cut may lie between the k-th value and the next: where it is farthest from all of D^2.
CUTS = (0.5, 0.35, 0.65, 0.2, 0.8)
#: Signs of eigenvalues below this share of the largest are not known.
SIGN = 1e-11


def angles(problems: Eigenproblems | WholeProblems, ritz: Ritz, norm: Tensor, *, count: bool) -> Tensor:
    """[N, k]: bounds on the length of the error of every unit vector of ``ritz``; inf where nothing is known.

    ``norm`` [N] is ||W0||_2 + ||dW||_2: rounding is a share of that, however small the sum is.  Without ``count`` the
    values are taken to be the top ones (those of a dense solver).
    """
    values, vectors = ritz.values, ritz.vectors
    k = vectors.shape[1]
    theta, floor = values[:, :k], rounding(vectors.shape[-1]) * norm[:, None] ** 2
    residual = (problems.times(vectors) - theta[..., None] * vectors).norm(dim=-1) + floor
    low, high = theta - residual, theta + residual
    above = F.pad(low[:, :-1] - theta[:, 1:], (1, 0), value=torch.inf)
    below = F.pad(theta[:, :-1] - high[:, 1:], (0, 1), value=torch.inf)
    if values.shape[1] > k:
        last = values[:, -1:] + floor
        if count:
            top, bottom = low[:, -1], torch.minimum(values[:, -1], low[:, -1])
            if isinstance(problems, Eigenproblems):
                cut = _cut(problems.d2, top, bottom)
                no_more = count_above(problems, cut) == k
            else:
                cut = (top + bottom) / 2
                no_more = none_above(problems, ritz, cut, norm)
            last = torch.where(no_more & (top > cut), cut, torch.inf)[:, None]
            below = torch.where(last < torch.inf, below, 0.0)  # one that was missed may be anywhere
        below = torch.cat([below[:, :-1], theta[:, -1:] - last], dim=1)
    sine = residual / torch.minimum(above, below).clamp(min=0)
    # |v - w| = 2 sin(angle / 2) <= sqrt(2) sin(angle), up to a right angle
    return torch.where(sine < 1, 2**0.5 * sine, torch.inf)


def of_left(error: Tensor, sigmas: Tensor) -> Tensor:
    """Bounds for left vectors u = W v / sigma from those for v, both [N, k]: u is turned by sigma_1 / sigma as much."""
    return error * (sigmas[:, :1] / sigmas)


def cosines(base: Levels, owner: Tensor, coordinates: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(lower bound, best |cosine|, upper bound), each [N, k], with W0's left singular vectors.

    ``coordinates`` [N, k, p] in U are known up to ``error`` [N, k]; ``owner`` [N] says whose matrix of ``base`` each
    is.  Vectors of equal singular values may be turned within their span: the best of q of them lies between the
    length of the projection onto the span and 1 / sqrt(q) of that.
    """
    size = coordinates.abs()
    best, turned = size.amax(-1), base.errors[owner][:, None, :]
    least = most = size
    if base.clusters is not None:
        place = base.clusters[owner][:, None, :].expand_as(size)
        squares = torch.zeros_like(size).scatter_add_(-1, place, size**2)
        members = torch.zeros_like(size).scatter_add_(-1, place, torch.ones_like(size))
        most = squares.gather(-1, place).sqrt()
        least = most / members.gather(-1, place).sqrt()
    error = torch.nan_to_num(error, nan=torch.inf, posinf=torch.inf)  # 0 / 0: of a matrix of zeros nothing is known
    low, high = (least - turned).amax(-1) - error, (most + turned).amax(-1) + error
    return low.clamp(0, 1), best.clamp(max=1), high.clamp(max=1)


def _cut(d2: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    """[N]: a number between ``bottom`` and ``top``, away from all of D^2."""
    candidates = bottom + torch.tensor(CUTS, dtype=d2.dtype, device=d2.device)[:, None] * (top - bottom)
    apart = (d2 - candidates[..., None]).abs().amin(-1)
    return candidates.gather(0, apart.argmax(0, keepdim=True))[0]


def count_above(problems: Eigenproblems, cut: Tensor) -> Tensor:
    """[N]: how many eigenvalues of G are above ``cut`` [N]; -1 where rounding hides it."""
    apart = problems.d2 - cut[:, None]
    low = problems.low
    signs = -(problems.coupling() + (low / apart[:, None, :]) @ low.mT)
    positive, known = _positive(signs)
    count = (apart > 0).sum(-1) + positive - low.shape[1] // 2
    return torch.where(known & (apart != 0).all(-1), count, -1)


def none_above(problems: WholeProblems, ritz: Ritz, cut: Tensor, norm: Tensor) -> Tensor:
    """[N]: whether it is proven that G has no eigenvalue above ``cut`` [N] but for k, those of ``ritz``.

    By a factorisation in float32 where that is enough, since it takes half the time; rounding is a share of ``norm``
    [N] squared.
    """
    k, p = ritz.vectors.shape[1:]
    weighted = ritz.vectors * ritz.values[:, :k, None]
    rest = torch.baddbmm(problems.matrix, weighted.mT, ritz.vectors, beta=-1)
    scaled, room = rest / problems.scale[:, None, None], norm**2 / problems.scale
    proven = _definite(scaled.float(), cut / problems.scale - rounding(p, torch.float32) * room)
    if not bool(proven.all()):
        proven = proven | _definite(scaled, cut / problems.scale - rounding(p) * room)
    return proven


def _definite(matrix: Tensor, shift: Tensor) -> Tensor:
    """[N]: whether matrix + shift has a Cholesky factorisation; the matrix is changed."""
    matrix.diagonal(dim1=1, dim2=2).add_(shift[:, None].to(matrix.dtype))
    root, failed = torch.linalg.cholesky_ex(matrix)
    return (failed == 0) & root.diagonal(dim1=1, dim2=2).isfinite().all(-1)


def _positive(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(number of positive eigenvalues [N], whether every sign is known [N]) of symmetric matrices [N, q, q].

    In blocks that a GPU takes in one batch: the inertia is that of the first block and of its Schur complement.
    """
    matrix = torch.nan_to_num(matrix, nan=0.0, posinf=0.0, neginf=0.0)  # a block of zeros: no sign is known
    first, rest = matrix[:, :BASIS, :BASIS], matrix[:, :BASIS, BASIS:]
    values, vectors = torch.linalg.eigh(first)
    size = values.abs()
    known = size.amin(-1) > SIGN * size.amax(-1)
    positive = (values > 0).sum(-1)
    if not rest.shape[-1]:
        return positive, known
    turned = vectors.mT @ rest
    scale = torch.where(size > 0, values, torch.inf)
    others, others_known = _positive(matrix[:, BASIS:, BASIS:] - turned.mT @ (turned / scale[..., None]))
    return positive + others, known & others_known
