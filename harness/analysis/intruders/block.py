"""Block iteration for the top eigenvectors of matrices that are given whole, many at a time.

Every step adds to the basis what a polynomial T of G makes of the residuals, orthogonal to all Ritz vectors that are
kept: the Chebyshev polynomial of the interval below them, which grows fastest above it (Zhou and Saad 2007).  With the
residual r = G x - theta x, T_i(G) x is T_i(theta) (x + z_i), where z_0 = 0 and

    z_i+1 = 2 q_i (G z_i + r) - q_i q_i-1 z_i-1,    q_i = T_i(theta) / T_i+1(theta)

(G and theta moved and scaled to the interval), so that only what is missing of an eigenvector is computed.  Started
from W0's own directions, changes of 2 % of ||W0||_2 take three steps, those as large as W0 six or seven.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.analysis.intruders.problem import WholeProblems
from harness.analysis.intruders.solver import BASIS, RIDGE, Ritz, rayleigh_ritz, unfinished

#: Ritz vectors kept; as many are new in every step.
KEEP = BASIS // 2
#: Degree of T: SmolLM2-135M's matrices, changed by 2 %, take 4.7 steps with 8, 3.2 with 12 and 2.8 with 16.
DEGREE = 12
STEPS = 16
#: The interval's share of the largest value, at least.
LEAST = 1e-12


def solve_whole(problems: WholeProblems, start: Tensor, k: int, tolerance: float) -> Ritz:
    """The top k eigenpairs, k < ``KEEP``, until residual / gap <= ``tolerance`` or no step is left.

    ``start`` [N, b, p], ``KEEP`` <= b <= ``BASIS`` rows of unit length, is what is looked at first.
    """
    size, p = problems.matrix.shape[:2]
    basis, images = start, problems.times(start)
    values, vectors = start.new_empty(size, k + 1), start.new_empty(size, k, p)
    left = torch.arange(size, device=start.device)
    for step in range(STEPS + 1):
        theta, rotation = rayleigh_ritz(basis, images, KEEP)
        ritz, images = rotation @ basis, rotation @ images
        values[left], vectors[left] = theta[:, : k + 1], F.normalize(ritz[:, :k], dim=-1)
        going = unfinished(theta, ritz, images, k, tolerance).any(-1).nonzero()[:, 0]
        if step == STEPS or not len(going):
            break
        if len(going) < len(left):
            left, problems, theta = left[going], problems[going], theta[going]
            ritz, images = ritz[going], images[going]
        new = _orthonormal(_filtered(problems, theta, ritz, images), ritz)
        basis, images = torch.cat([ritz, new], 1), torch.cat([images, problems.times(new)], 1)
    return Ritz(values, vectors)


def _filtered(problems: WholeProblems, theta: Tensor, ritz: Tensor, images: Tensor) -> Tensor:
    """[N, ``KEEP``, p]: the z of each Ritz pair, of unit length; zero where there is none.

    In float32: z is only added to what is known better.  Its parts along ``ritz`` go in every step, since those that
    belong to the largest eigenvalues would outgrow the rest.
    """
    residual = _unit(_beside(images - theta[..., None] * ritz, ritz)).float()
    theta, ritz = (theta / problems.scale[:, None]).float()[..., None], ritz.float()
    half = torch.maximum(theta[:, -1:], LEAST * theta[:, :1]).clamp(min=LEAST) / 2  # of the interval, which starts at 0
    place = (theta / half - 1).clamp(min=1)
    ratio = 1 / place
    before, now = torch.zeros_like(residual), ratio * residual
    for _ in range(DEGREE - 1):
        last, ratio = ratio, 1 / (2 * place - ratio)
        image = torch.addcmul(residual - now, now @ problems.single, 1 / half)
        after = torch.addcmul(2 * ratio * image, ratio * last, before, value=-1)
        before, now = now, _beside(after, ritz)
    return _unit(torch.nan_to_num(now, nan=0.0, posinf=0.0, neginf=0.0).double())


def _orthonormal(vectors: Tensor, ritz: Tensor) -> Tensor:
    """A basis of ``vectors`` [N, b, p], orthogonal to ``ritz``; zero vectors stay.

    Vectors that nearly depend on others must not reach Rayleigh-Ritz: their images would lose the digits that the
    others' residuals are made of.
    """
    for _ in range(2):
        vectors = _beside(vectors, ritz)
        products = vectors @ vectors.mT
        products.diagonal(dim1=1, dim2=2).add_(RIDGE)
        vectors = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(products)[0], vectors, upper=False)
    return torch.nan_to_num(vectors, nan=0.0, posinf=0.0, neginf=0.0)


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=-1, eps=torch.finfo(vectors.dtype).tiny)


def _beside(vectors: Tensor, ritz: Tensor) -> Tensor:
    """The part of ``vectors`` that is orthogonal to the orthonormal rows of ``ritz``."""
    return torch.baddbmm(vectors, vectors @ ritz.mT, ritz, alpha=-1)
