"""Intruder dimensions of many updates of many base matrices of one shape, each with a certificate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.analysis.intruders.bounds import SOLVER_FROM, TOLERANCES, Bounds, Sizes, by_eigh, full_svd
from harness.analysis.intruders.certificate import angles, cosines, of_left
from harness.analysis.intruders.problem import Update
from harness.analysis.intruders.results import FALLBACK, SOLVER, TOP_K, Measured
from harness.analysis.intruders.solver import DIRECTIONS, MOST, solve
from harness.analysis.intruders.spectrum import Spectrum
from harness.analysis.intruders.threads import side_by_side, threads_of

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
        return _Measurement(base[part], a[part], b[part], top_k).measure()

    return Measured.join(side_by_side(work, parts, a.device))


def stacked(factors: Sequence[tuple[Tensor, Tensor, float]]) -> tuple[Tensor, Tensor]:
    """(A [..., sum r, n], B [..., m, sum r]) of a sum of scale B_t A_t: merged tasks, averages of products."""
    a = torch.cat([a for a, _, _ in factors], dim=-2)
    return a, torch.cat([scale * b for _, b, scale in factors], dim=-1)


class _Measurement:
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
            bounds.put(again, Bounds.join([self._fall_back(n) for n in again.tolist()]))
            solved[again] = FALLBACK
        sizes = Sizes.of(self.update.sigmas)
        bounds.settle(sizes.spectral == 0)
        return bounds.measured(self.update.d[:, 0], sizes, solved.view(self.finite.shape), self.finite)

    def _solve(self, update: Update, owner: Tensor, tolerance: float) -> Bounds:
        problems, k = update.problems(), self.k
        p, rows = problems.d2.shape[1], problems.low.shape[1]
        norm = update.d[:, 0] + update.sigmas[:, 0]
        if p >= SOLVER_FROM and k <= MOST and rows <= p // 2:
            ritz = solve(problems, update.directions(DIRECTIONS), k, tolerance)
            error = angles(problems, ritz, norm, count=True)
        else:
            ritz = by_eigh(problems.dense(), k)
            error = angles(problems, ritz, norm, count=False)
        sigmas = ritz.values[:, :k].clamp(min=0).sqrt()
        error = error if update.wide else of_left(error, sigmas)
        return Bounds(*cosines(self.base.levels, owner, update.coordinates(ritz.vectors, sigmas), error), sigmas)

    def _fall_back(self, n: int) -> Bounds:
        i, t = divmod(n, self.a.shape[1])
        base = self.base[i : i + 1]
        return full_svd(base, base.weights()[0] + self.b[i, t] @ self.a[i, t], self.update.sigmas[n, 0], self.k)
