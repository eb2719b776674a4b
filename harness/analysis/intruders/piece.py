"""Some dense changes of one size p, side by side: from weights to cosines with their bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from harness.analysis.intruders.block import KEEP, solve_whole
from harness.analysis.intruders.bounds import TOLERANCES, Bounds, by_eigh, full_svd
from harness.analysis.intruders.certificate import angles, cosines, of_left
from harness.analysis.intruders.problem import WholeProblems, gram, positive
from harness.analysis.intruders.results import DENSE, FALLBACK, SOLVER
from harness.analysis.intruders.solver import BASIS, Ritz
from harness.analysis.intruders.spectrum import Levels, Spectrum, rounding
from harness.analysis.intruders.tridiagonal import largest, top_pairs, tridiagonal

#: From this p on the block iteration is faster than decompositions of one matrix after another.  On two cores of a CPU
#: it is slower by 5 to 7 % from 640 to 1,024, as fast at 1,536, and faster by 7 % at 2,048.
BLOCKS_FROM = {"cpu": 1536, "cuda": 96}


@dataclass(frozen=True)
class DenseChange:
    """What T trials have added to one base matrix W0."""

    base: Spectrum  #: of W0 alone, a stack of one
    weight: Tensor  #: W0 [m, n]
    trials: int
    #: W - W0 in fp64 of some of the trials [those, m, n], made when it is their turn: all of a model's are large.
    delta: Callable[[slice], Tensor]

    @property
    def size(self) -> int:
        """p"""
        return self.base.d.shape[1]


@dataclass(frozen=True)
class Sized:
    """How large N changes dW are."""

    norm: Tensor  #: [N], ||dW||_F
    spectral: Tensor  #: [N], ||dW||_2
    diagonal: Tensor  #: [N, p], of tridiagonal matrices with the eigenvalues of the Gram matrices of dW
    beside: Tensor  #: [N, p - 1], next to it

    @classmethod
    def of(cls, norm: Tensor, grams: Tensor, least: Tensor) -> Sized:
        """From Gram matrices [N, p, p], which may change; spectral norms of at most ``least`` [N] are taken as zero."""
        reduced = tridiagonal(grams)
        spectral = largest(*reduced).sqrt()
        there = spectral > least
        return cls(torch.where(there, norm, 0.0), torch.where(there, spectral, 0.0), *reduced)


class Piece:
    """T trials of each of S base matrices; problem n is that of matrix n // T and trial n % T."""

    def __init__(self, changes: Sequence[DenseChange], trials: slice, top_k: int) -> None:
        """Matrices of one shape must be neighbours."""
        self.changes, self.trials = changes, trials.stop - trials.start
        self.tuned: list[Tensor] = []  # W [T, m, n] of each matrix
        norms, grams, change_grams = [], [], []
        for _, alike in groupby(changes, key=lambda change: change.weight.shape):
            members = list(alike)
            delta = _stacked([change.delta(trials) for change in members])
            norms.append(delta.flatten(2).norm(dim=-1))
            if not bool((sound := norms[-1].isfinite()).all()):
                delta = torch.where(sound[..., None, None], delta, 0.0)
            tuned = delta + _stacked([change.weight for change in members])[:, None]
            grams.append(gram(tuned.flatten(0, 1)))
            change_grams.append(gram(delta.flatten(0, 1)))
            self.tuned += tuned
        norm = torch.cat([part.flatten() for part in norms])
        self.finite, self.whole = norm.isfinite(), WholeProblems(torch.cat(grams))
        self.levels = Levels(torch.cat([change.base.d for change in changes]))
        self.top = self.levels.d[:, 0].repeat_interleave(self.trials)  # [N], ||W0||_2
        p = self.levels.d.shape[1]
        self.sized = Sized.of(norm.nan_to_num(0.0, 0.0, 0.0), torch.cat(change_grams), rounding(p) * self.top)
        self.k = min(top_k, p)

    def bounds(self) -> tuple[Bounds, Tensor]:
        """What is known in the end, and how each problem was solved [N]."""
        every, device = torch.arange(len(self.top), device=self.top.device), self.top.device.type
        blocks = self.levels.d.shape[1] >= BLOCKS_FROM.get(device, BLOCKS_FROM["cpu"]) and self.k < KEEP
        solved = torch.full_like(every, SOLVER if blocks else DENSE, dtype=torch.int8)
        if blocks:
            bounds = self._by_blocks(every, TOLERANCES[0])
            for tolerance in TOLERANCES[1:]:
                if len(again := bounds.open()):
                    bounds.put(again, self._by_blocks(again, tolerance))
            if len(again := bounds.open()):
                bounds.put(again, self._whole(again))
                solved[again] = DENSE
        else:
            bounds = self._whole(every)
        if len(again := bounds.open()):
            bounds.put(again, Bounds.join([self._by_svd(n) for n in again.tolist()]))
            solved[again] = FALLBACK
        bounds.settle(self.sized.spectral == 0)
        return bounds, solved

    def _by_blocks(self, which: Tensor, tolerance: float) -> Bounds:
        first = [(change.base.u if change.base.wide else change.base.v)[:, :BASIS] for change in self.changes]
        problems, start = self._problems(which), torch.cat(first)[which // self.trials]
        return self._in_base(which, problems, solve_whole(problems, start, self.k, tolerance), count=True)

    def _whole(self, which: Tensor) -> Bounds:
        """By a library's decomposition."""
        problems, p = self._problems(which), self.levels.d.shape[1]
        if self.top.device.type == "cpu" and self.k + 1 < p:
            values, vectors = top_pairs(problems.matrix, self.k + 1)
            ritz = Ritz(values, vectors[:, : self.k])
        else:
            ritz = by_eigh(problems.matrix, self.k)
        return self._in_base(which, problems, ritz, count=False)

    def _problems(self, which: Tensor) -> WholeProblems:
        return self.whole if len(which) == len(self.top) else self.whole[which]

    def _in_base(self, which: Tensor, problems: WholeProblems, ritz: Ritz, *, count: bool) -> Bounds:
        """Eigenvectors in coordinates of W0's left singular vectors, with what is proven of these."""
        error = angles(problems, ritz, (self.top + self.sized.spectral)[which], count=count)
        sigmas, done = ritz.values[:, : self.k].clamp(min=0).sqrt(), 0
        lefts, errors = [], []
        for matrix, some in groupby(which.tolist(), key=lambda n: n // self.trials):
            trials = [n % self.trials for n in some]
            part = slice(done, done := done + len(trials))
            left, bound, base = ritz.vectors[part], error[part], self.changes[matrix].base
            if not base.wide:
                tuned = self.tuned[matrix] if len(trials) == self.trials else self.tuned[matrix][trials]
                left, bound = left @ tuned.mT / positive(sigmas[part]), of_left(bound, sigmas[part])
            lefts.append(left @ base.u.mT)
            errors.append(bound)
        return Bounds(*cosines(self.levels, which // self.trials, torch.cat(lefts), torch.cat(errors)), sigmas)

    def _by_svd(self, n: int) -> Bounds:
        matrix, trial = divmod(n, self.trials)
        return full_svd(self.changes[matrix].base, self.tuned[matrix][trial], self.sized.spectral[n], self.k)


def _stacked(matrices: Sequence[Tensor]) -> Tensor:
    """As ``torch.stack``, without a copy of a single one."""
    return torch.stack(list(matrices)) if len(matrices) > 1 else matrices[0][None]
