"""Symmetric matrices made tridiagonal, and what that gives: top eigenvectors, norms and effective ranks of changes.

On a CPU by LAPACK (6.4 ms for 576 x 576), on a GPU by the Householder reflections of all matrices side by side, since
its library takes one matrix after another.  What is left is cheap: eigenvalues by bisection, and the entropy of all
singular values without any of them, from sums that are integrals (u = log t and L(u) = log det(1 + T / t), which is the
sum of all log(1 + lambda / t)):

    sum lambda^1/2 = 1/2pi int e^(u/2) L du,    sum lambda^1/2 log lambda = 1/2pi int (u + 2) e^(u/2) L du

since int t^(a-1) log(1 + lambda / t) dt = pi lambda^a / (a sin(pi a)), and its derivative by a.  The trapezoid rule is
exact to 3e-9 for steps of 1 in u (Trefethen and Weideman 2014).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.analysis.intruders import lapack
from harness.analysis.intruders.threads import side_by_side

#: Reflections that are collected before the rest of the matrix is changed, by one product then.
PANEL = 32
#: From where to where u is taken, for a largest eigenvalue of 1: below 1e-13 eigenvalues are rounding, and above 1e7
#: log(1 + lambda / t) is lambda / t.  As many steps beyond either end are added in closed form.
LOW, HIGH, BEYOND = -30, 17, 45


def tridiagonal(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """(diagonal [N, p], next to it [N, p - 1]) of tridiagonal matrices with the eigenvalues of symmetric [N, p, p].

    ``matrices`` are overwritten.
    """
    if matrices.device.type != "cpu":
        return householder(matrices)
    parts = [lapack.Reduced.of(matrix) for matrix in matrices.numpy()]
    diagonal, beside = np.stack([part.diagonal for part in parts]), np.stack([part.beside for part in parts])
    return torch.from_numpy(diagonal), torch.from_numpy(beside)


def top_pairs(matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(values [N, count], vectors [N, count, p]) of the largest eigenvalues, falling, of symmetric matrices on a CPU.

    8.5 ms for 11 of 576 x 576, where all take 30.
    """
    pairs = []
    for matrix in matrices.numpy():
        reduced = lapack.Reduced.of(matrix.copy())
        values, vectors = lapack.top_pairs(reduced.diagonal, reduced.beside, count)
        reduced.times_q(vectors)
        pairs.append((values[::-1], vectors[::-1]))
    values, vectors = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
    return values, vectors


def householder(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The same on any device: reflections 1 - v v^T, |v|^2 = 2, as LAPACK's ``latrd`` takes them.

    With y = A v and w = y - (y v) v / 2 each takes v w^T + w v^T off the matrix.  Launches are what it costs on a GPU:
    16 a reflection, however many matrices.
    """
    rest, diagonal, beside = matrices, [], []
    while n := rest.shape[-1]:
        steps = min(PANEL, n)
        kept = rest.new_zeros(len(rest), 3 * PANEL, n)  # the v of this panel, their w, and the v again
        rows, others = kept[:, : 2 * PANEL], kept[:, PANEL:]
        for i in range(steps):
            column = rest[:, i : i + 1, i:].baddbmm_(others[:, :, i : i + 1].mT, rows[:, :, i:], alpha=-1)
            if i + 1 == n:
                break
            below, after = column[..., 1:], slice(i + 1, None)
            length = below.norm(dim=-1).copysign(below[..., 0])
            beside.append(length[:, 0])  # or its negative: the eigenvalues are the same
            below[..., 0].add_(length)
            v = 2**0.5 * F.normalize(below, dim=-1, eps=torch.finfo(below.dtype).tiny)
            w = torch.bmm(v, rest[:, after, after])
            w.baddbmm_(torch.bmm(v, rows[:, :, after].mT), others[:, :, after], alpha=-1)
            w.baddbmm_(torch.bmm(w, v.mT), v, alpha=-0.5)
            kept[:, i, after] = kept[:, 2 * PANEL + i, after] = v[:, 0]
            kept[:, PANEL + i, after] = w[:, 0]
        diagonal.append(rest.diagonal(dim1=1, dim2=2)[:, :steps].clone())
        rest = torch.baddbmm(rest[:, steps:, steps:], rows[:, :, steps:].mT, others[:, :, steps:], alpha=-1)
    return torch.cat(diagonal, dim=1), torch.stack(beside, dim=1) if beside else matrices.new_zeros(len(matrices), 0)


def largest(diagonal: Tensor, beside: Tensor) -> Tensor:
    """[N]: the largest eigenvalue of each tridiagonal matrix, to rounding; 0 where it is not above 0."""
    if diagonal.shape[1] == 1:
        return diagonal[:, 0].clamp(min=0)
    pairs = list(zip(diagonal.cpu().numpy(), beside.cpu().numpy(), strict=True))

    def one(pair: tuple[np.ndarray, np.ndarray]) -> float:
        return float(lapack.top_values(*pair, 1)[0])

    values = torch.tensor(side_by_side(one, pairs, torch.device("cpu")), dtype=diagonal.dtype, device=diagonal.device)
    return values.clamp(min=0)


def effective_ranks(diagonal: Tensor, beside: Tensor, top: Tensor) -> Tensor:
    """[N]: exp of the entropy of s / sum s, s the roots of T's eigenvalues, the largest being ``top``; 0 where T is 0.

    To 2e-8 where all s are above 1e-5 of the largest, to 3e-5 where they pass through the 1e-6 that rounding hides.
    """
    scale = torch.where(top > 0, top, 1.0)[:, None]
    logs = _log_determinants(diagonal / scale, beside / scale)
    steps = torch.arange(1, BEYOND + 1, dtype=top.dtype, device=top.device)[:, None]
    below = logs[0] + steps * (logs[0] - logs[1])  # there every log(1 + lambda / t) is straight in u, or nothing
    above = (diagonal / scale).sum(dim=1) * (1 - HIGH - steps).exp()
    u = torch.arange(LOW - BEYOND, HIGH + BEYOND, dtype=top.dtype, device=top.device)[:, None]
    terms = (u / 2).exp() * torch.cat([below.flip(0), logs, above]) / (2 * torch.pi)
    total, weighted = terms.sum(dim=0), ((u + 2) * terms).sum(dim=0) / 2  # sum s, sum s log s
    total = torch.where(top > 0, total, 1.0)
    return torch.where(top > 0, total * (-weighted / total).exp(), 0.0)


def _log_determinants(diagonal: Tensor, beside: Tensor) -> Tensor:
    """[U, N]: log det(1 + T / t) for t = e^u, u from ``LOW`` to ``HIGH``, by the pivots of T + t."""
    t = torch.arange(LOW, HIGH, dtype=diagonal.dtype, device=diagonal.device).exp()[:, None]
    squares = F.pad(beside**2, (1, 0)).T.contiguous()
    logs, product = t.new_zeros(len(t), len(diagonal)), t.new_ones(len(t), len(diagonal))
    pivot = torch.ones_like(product)
    for i, (entry, square) in enumerate(zip(diagonal.T.contiguous(), squares, strict=True)):
        pivot = torch.addcdiv(entry, square, pivot, value=-1).clamp_(min=0).add_(t)  # below 0 it was rounding
        product.mul_(pivot).div_(t)
        if i % 16 == 15:  # 16 factors of at most 1e13 each
            logs += product.log()
            product.fill_(1)
    return logs + product.log()
