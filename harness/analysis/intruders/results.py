"""What is measured of each matrix and each update, and its sums and means in the words of the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TOP_K = 10
EPSILON = 0.5
EPSILONS = tuple(round(0.1 * i, 1) for i in range(1, 10))
#: How a matrix was solved: by a batched solver; by a full SVD in the end; by a library's eigenvectors of all of G, for
#: dense changes on a CPU, of small matrices, and where the solver leaves one open.
SOLVER, FALLBACK, DENSE = range(3)


@dataclass(frozen=True)
class Measured:
    """Of T updates of each of S matrices."""

    low: np.ndarray  #: [S, T, k], proven lower bound of ``best``
    best: np.ndarray  #: [S, T, k], best |cosine| of each top left singular vector, by falling singular value
    high: np.ndarray  #: [S, T, k], proven upper bound
    sigmas: np.ndarray  #: [S, T, k]
    delta_norm: np.ndarray  #: [S, T], ||dW||_F
    relative_spectral_norm: np.ndarray  #: [S, T], ||dW||_2 / ||W0||_2
    effective_rank: np.ndarray  #: [S, T], exp(entropy of dW's normalised singular values), 0 where dW = 0
    solved: np.ndarray  #: [S, T]: ``SOLVER``, ``FALLBACK`` or ``DENSE``
    finite: np.ndarray  #: [S, T]: whether the factors were

    @classmethod
    def join(cls, parts: Sequence[Measured]) -> Measured:
        """One after another; the vectors that smaller matrices don't have are nan."""
        k = max(part.best.shape[-1] for part in parts)

        def column(name: str) -> np.ndarray:
            values = [getattr(part, name) for part in parts]
            if values[0].ndim == 3:
                values = [np.pad(v, [(0, 0), (0, 0), (0, k - v.shape[2])], constant_values=np.nan) for v in values]
            return np.concatenate(values)

        return cls(*(column(name) for name in cls.__dataclass_fields__))

    def __getitem__(self, which: np.ndarray | tuple[Any, ...]) -> Measured:
        """Of some of the matrices, or (matrices, trial)."""
        return Measured(*(values[which] for values in vars(self).values()))

    def count(self, epsilon: float = EPSILON) -> np.ndarray:
        """[S, T]"""
        return (self.best < epsilon).sum(-1)

    def bounds(self, epsilon: float = EPSILON) -> tuple[np.ndarray, np.ndarray]:
        """What the count is at least and at most, [S, T] each; equal where it is decided."""
        return (self.high < epsilon).sum(-1), (self.low < epsilon).sum(-1)

    @property
    def distance(self) -> np.ndarray:
        """[S, T]: mean of 1 - best |cosine| over the top k."""
        return np.nanmean(1 - self.best, axis=-1)

    @property
    def energy_share(self) -> np.ndarray:
        """[S, T]: sigma^2 of the intruders over sigma^2 of the top k."""
        energy = np.nan_to_num(self.sigmas) ** 2
        total = energy.sum(-1)
        return (energy * (self.best < EPSILON)).sum(-1) / np.where(total > 0, total, 1.0)


def summaries(
    measured: Measured, labels: Sequence[tuple[str, str]], used: np.ndarray | None = None
) -> list[dict[str, Any] | None]:
    """Of every update what ``store.records.Intruders`` holds: over all its matrices, by projection and by layer.

    ``labels`` are the (projection, layer) of the S matrices.  ``used`` [S, T] leaves matrices out that an update does
    not touch by design.  None for an update with factors that are not finite.
    """
    used = np.ones_like(measured.finite) if used is None else used
    table, worst = _table(measured, used)
    rows: dict[tuple[str, str], list[int]] = {("", ""): list(range(len(labels)))}
    for row, (projection, layer) in enumerate(labels):
        rows.setdefault(("by_type", projection), []).append(row)
        rows.setdefault(("by_layer", layer), []).append(row)
    groups = {
        key: (table[members].sum(0), worst[members].max(0), used[members].sum(0)) for key, members in rows.items()
    }
    results: list[dict[str, Any] | None] = []
    for trial in range(measured.finite.shape[1]):
        whole: dict[str, Any] = {"by_type": {}, "by_layer": {}}
        for (kind, name), (sums, error, matrices) in groups.items():
            if matrices[trial]:
                part = _summary(sums[trial], float(error[trial]), int(matrices[trial]))
                whole.update(part) if not kind else whole[kind].update({name: part})
        results.append(whole if (measured.finite | ~used)[:, trial].all() else None)
    return results


MEANS = ("distance", "energy_share", "delta_norm", "relative_spectral_norm", "effective_rank")
COUNTS = ("count", "count_low", "count_high", "undecided", "fallbacks", "full_svds")


def _table(measured: Measured, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(what is summed [S, T, columns], in the order of ``_summary``; the largest bound on a cosine's error [S, T])."""
    low, high = measured.bounds()
    columns = [getattr(measured, name) for name in MEANS]
    columns += [measured.count(), low, high, low < high, measured.solved == FALLBACK, measured.solved == DENSE]
    columns += [measured.count(epsilon) for epsilon in EPSILONS]
    for epsilon in EPSILONS:
        at_least, at_most = measured.bounds(epsilon)
        columns.append(at_least < at_most)
    error = np.fmax(measured.high - measured.best, measured.best - measured.low)
    return np.stack(columns, axis=-1) * used[..., None], np.nan_to_num(error).max(-1) * used


def _summary(sums: np.ndarray, error: float, matrices: int) -> dict[str, Any]:
    numbers = sums.tolist()
    counts, grid = numbers[len(MEANS) :], numbers[len(MEANS) + len(COUNTS) :]
    undecided = dict(zip(map(str, EPSILONS), grid[len(EPSILONS) :], strict=True))
    return {
        "matrices": matrices,
        **{name: value / matrices for name, value in zip(MEANS, numbers, strict=False)},
        **{name: int(value) for name, value in zip(COUNTS, counts, strict=False)},
        "cosine_error": error,
        "by_epsilon": {str(epsilon): int(value) for epsilon, value in zip(EPSILONS, grid, strict=False)},
        "undecided_by_epsilon": {epsilon: int(value) for epsilon, value in undecided.items() if value},
    }
