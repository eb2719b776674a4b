"""Intruder dimensions of many updates of many base matrices of one shape, each with a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.analysis.intruders.certificate import angles, cosines
from harness.analysis.intruders.problem import Update, WholeProblems, roots
from harness.analysis.intruders.results import DENSE, EPSILONS, FALLBACK, SOLVER, TOP_K, Measured
from harness.analysis.intruders.solver import DIRECTIONS, MOST, Ritz, solve
from harness.analysis.intruders.spectrum import Spectrum, rounding
from harness.analysis.intruders.threads import side_by_side, threads_of

#: Accuracy of eigenvectors that is asked for first, and where that leaves a count open.
TOLERANCES = (1e-8, 1e-12)
#: From this p on the solver is faster than LAPACK.
SOLVER_FROM = 96
#: Problems times p solved at a time: on a CPU what its cache holds (16 of 576), on a GPU a few GB of its memory.
BATCH = {"cpu": 2**13 + 2**10, "cuda": 2**20}


def analyse(base: Spectrum, a: Tensor, b: Tensor, top_k: int = TOP_K) -> Measured:
    """Intruders of W0 + B A for T updates of each of the S base matrices [m, n].

    A is [S, T, r, n] and B [S, T, m, r]; scaling is part of B, and factors of several tasks are stacked along r
    (:func:`stacked`).  An update with non-finite factors is taken as zero and is not ``finite`` in the result.
    """
    size, workers = a.shape[0], threads_of(a.device)
    step = BATCH.get(a.device.type, BATCH["cpu"]) // (a.shape[1] * base.d.shape[1])
    step = max(1, min(step, -(-size // workers)))
    parts = [slice(i, i + step) for i in range(0, size, step)]

    def work(part: slice) -> Measured:
        return _Batch(base[part], a[part], b[part], top_k).measure()

    return Measured.join(side_by_side(work, parts, a.device))


def stacked(factors: Sequence[tuple[Tensor, Tensor, float]]) -> tuple[Tensor, Tensor]:
    """(A [..., sum r, n], B [..., m, sum r]) of a sum of scale B_t A_t: merged tasks, averages of products."""
    a = torch.cat([a for a, _, _ in factors], dim=-2)
    return a, torch.cat([scale * b for _, b, scale in factors], dim=-1)


def analyse_dense(base: Spectrum, weights: Tensor, top_k: int = TOP_K) -> Measured:
    """The same of weights [S, T, m, n] whose difference to W0 has no low rank (``DENSE``).

    Such are weights that were trained themselves, and adapters merged into weights of 16 bits: rounding has full rank.
    G is formed and all its eigenvectors are taken, in fp64: a third of the time of the SVDs of W and dW on a CPU.
    """
    finite = weights.isfinite().flatten(2).all(-1)
    original = base.weights()[:, None]
    weights = torch.where(finite[..., None, None], weights.double(), original)
    owner = torch.arange(len(base.d), device=weights.device).repeat_interleave(weights.shape[1])
    deltas = _singular_values((weights - original).flatten(0, 1))
    deltas = torch.where(deltas[:, :1] > rounding(base.d.shape[1]) * base.d[owner, :1], deltas, 0.0)
    problems, k = WholeProblems.of(base, weights), min(top_k, base.d.shape[1])
    ritz = _by_eigh(problems.matrix, k)
    error = angles(problems, ritz, base.d[owner, 0] + deltas[:, 0], count=False)
    bounds = _in_base(base, owner, problems, ritz, error)
    bounds.settle(deltas[:, 0] == 0)
    solved = torch.full_like(owner, DENSE, dtype=torch.int8)
    if len(again := bounds.open()):
        places = [(n, *divmod(n, weights.shape[1])) for n in again.tolist()]
        parts = [_full_svd(base[s : s + 1], weights[s, t], deltas[n, 0], k) for n, s, t in places]
        bounds.put(again, _Bounds.join(parts))
        solved[again] = FALLBACK
    return bounds.measured(base, deltas, solved.view(finite.shape), finite)


@dataclass
class _Bounds:
    """Best |cosines| of the top k vectors of N matrices with their bounds, and the singular values; each [N, k]."""

    low: Tensor
    best: Tensor
    high: Tensor
    sigmas: Tensor

    @classmethod
    def join(cls, parts: Sequence[_Bounds]) -> _Bounds:
        return cls(*(torch.cat(part) for part in zip(*(vars(p).values() for p in parts), strict=True)))

    def open(self) -> Tensor:
        """Indices of the matrices that have a cosine whose bounds enclose an epsilon."""
        epsilons = torch.tensor(EPSILONS, dtype=torch.float64, device=self.best.device)
        enclosed = (self.low[..., None] < epsilons) & (epsilons <= self.high[..., None])
        return enclosed.flatten(1).any(-1).nonzero()[:, 0]

    def put(self, where: Tensor, part: _Bounds) -> None:
        for name, values in vars(part).items():
            getattr(self, name)[where] = values

    def settle(self, untouched: Tensor) -> None:
        """A matrix without an update has W0's vectors, even where those are not unique."""
        for values in (self.low, self.best, self.high):
            values.masked_fill_(untouched[:, None], 1.0)

    def measured(self, base: Spectrum, deltas: Tensor, solved: Tensor, finite: Tensor) -> Measured:
        """With ``deltas`` [N, r], the singular values of the updates; ``solved`` and ``finite`` [S, T]."""
        total = deltas.sum(-1, keepdim=True)
        rank = torch.special.entr(deltas / torch.where(total > 0, total, 1.0)).sum(-1).exp()
        top = base.d[:, 0].repeat_interleave(finite.shape[1])
        numbers = {
            **vars(self),
            "delta_norm": deltas.norm(dim=-1),
            "relative_spectral_norm": deltas[:, 0] / torch.where(top > 0, top, torch.inf),
            "effective_rank": torch.where(total[:, 0] > 0, rank, 0.0),
        }
        shaped = {name: values.unflatten(0, finite.shape) for name, values in numbers.items()}
        return Measured(**{k: v.cpu().numpy() for k, v in (shaped | {"solved": solved, "finite": finite}).items()})


class _Batch:
    """T updates of S base matrices, on their way from factors to numbers."""

    def __init__(self, base: Spectrum, a: Tensor, b: Tensor, top_k: int) -> None:
        self.finite = a.isfinite().flatten(2).all(-1) & b.isfinite().flatten(2).all(-1)
        self.a, self.b = (torch.where(self.finite[..., None, None], x, 0.0).double() for x in (a, b))
        self.base, self.k = base, min(top_k, base.d.shape[1])
        self.update = Update.of(base, self.a, self.b)
        self.owner = torch.arange(len(base.d), device=a.device).repeat_interleave(a.shape[1])

    def measure(self) -> Measured:
        bounds = self._solve(self.update, self.owner, TOLERANCES[0])
        solved = torch.full_like(self.owner, SOLVER, dtype=torch.int8)
        for tolerance in TOLERANCES[1:]:
            if len(again := bounds.open()):
                bounds.put(again, self._solve(self.update[again], self.owner[again], tolerance))
        if len(again := bounds.open()):
            bounds.put(again, _Bounds.join([self._fall_back(n) for n in again.tolist()]))
            solved[again] = FALLBACK
        deltas = self.update.sigmas
        bounds.settle(deltas[:, 0] == 0)
        return bounds.measured(self.base, deltas, solved.view(self.finite.shape), self.finite)

    def _solve(self, update: Update, owner: Tensor, tolerance: float) -> _Bounds:
        problems, k = update.problems(), self.k
        p, rows = problems.d2.shape[1], problems.low.shape[1]
        norm = update.d[:, 0] + update.sigmas[:, 0]
        if p >= SOLVER_FROM and k <= MOST and rows <= p // 2:
            ritz = solve(problems, update.directions(DIRECTIONS), k, tolerance)
            error = angles(problems, ritz, norm, count=True)
        else:
            ritz = _by_eigh(problems.dense(), k)
            error = angles(problems, ritz, norm, count=False)
        return _in_base(self.base, owner, update, ritz, error)

    def _fall_back(self, n: int) -> _Bounds:
        i, t = divmod(n, self.a.shape[1])
        base = self.base[i : i + 1]
        return _full_svd(base, base.weights()[0] + self.b[i, t] @ self.a[i, t], self.update.sigmas[n, 0], self.k)


def _by_eigh(matrix: Tensor, k: int) -> Ritz:
    """The top eigenpairs of G [N, p, p], from all of them."""
    values, vectors = torch.linalg.eigh(matrix)
    return Ritz(values.flip(-1)[:, : k + 1], vectors.mT.flip(1)[:, :k])


def _in_base(base: Spectrum, owner: Tensor, update: Update | WholeProblems, ritz: Ritz, error: Tensor) -> _Bounds:
    """What eigenvectors that are known up to ``error`` [N, k] are in coordinates of W0's left singular vectors."""
    sigmas = ritz.values[:, : error.shape[1]].clamp(min=0).sqrt()
    if not update.wide:  # u = W v / sigma: what turns v turns u by up to sigma_1 / sigma as much
        error = error * (sigmas[:, :1] / sigmas)
    return _Bounds(*cosines(base, owner, update.coordinates(ritz.vectors, sigmas), error), sigmas)


def _singular_values(matrices: Tensor) -> Tensor:
    """[N, p], falling, of [N, m, n]."""
    wide = matrices.shape[1] <= matrices.shape[2]
    return roots(torch.linalg.eigvalsh(matrices @ matrices.mT if wide else matrices.mT @ matrices))


def _full_svd(base: Spectrum, weight: Tensor, delta: Tensor, top_k: int) -> _Bounds:
    """Of one matrix W [m, n], by the definition; ``delta`` is ||dW||_2."""
    u, sigmas, _ = torch.linalg.svd(weight, full_matrices=False)
    k = min(top_k, len(sigmas))
    gaps = torch.nn.functional.pad(sigmas[:-1] - sigmas[1:], (1, 1), value=torch.inf)
    error = 2**0.5 * rounding(len(sigmas)) * (base.d[0, 0] + delta) / torch.minimum(gaps[:-1], gaps[1:])[:k]
    owner = torch.zeros(1, dtype=torch.long, device=weight.device)
    return _Bounds(*cosines(base, owner, (base.u[0] @ u[:, :k]).mT[None], error[None]), sigmas[None, :k])
