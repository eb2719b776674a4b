"""Continual-learning metrics of one trial, as functions of its accuracy matrix.

``R`` is (T+1) x T: ``R[i][j]`` is the score on the stream's j-th task after training on the i-th, row 0 is the base
model, and future tasks are included.  In the formulas below tasks count from 1, so ``R[j][j]`` is the score on task j
just after learning it.  Scores are in the task's unit (a share in 0 ... 1 for accuracies), higher is better.
A metric that does not exist for this T, or whose denominator carries no signal, is ``None``: never 0, never NaN.
Every function raises ``ValueError`` where R has another shape or a value that is not finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

#: Least gain a task (mean over all but the last) below which "the share of it that was lost" is noise, not a metric.
LEAST_GAIN = 0.02


def as_matrix(scores: ArrayLike) -> np.ndarray:
    """``scores`` as a float array, checked to be a finite (T+1) x T matrix with T >= 1."""
    matrix = np.asarray(scores, dtype=float)
    if matrix.ndim != 2 or matrix.shape[1] < 1 or matrix.shape[0] != matrix.shape[1] + 1:
        raise ValueError(f"the accuracy matrix must be (T+1) x T with T >= 1, not {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("the accuracy matrix holds a value that is not finite")
    return matrix


def _learnt(matrix: np.ndarray) -> np.ndarray:
    """R[j][j] for j = 1 ... T: each task just after it was learnt (the base row shifts the diagonal by one)."""
    return np.diagonal(matrix, offset=-1)


def average_accuracy(scores: ArrayLike) -> float:
    """mean_j R[T][j]: the primary outcome (Lopez-Paz & Ranzato 2017, arXiv 1706.08840)."""
    return float(as_matrix(scores)[-1].mean())


def average_accuracy_over_time(scores: ArrayLike) -> float:
    """(1/T) sum_t (1/t) sum_{j<=t} R[t][j]: the accuracy on the tasks learnt so far, averaged over the stream."""
    matrix = as_matrix(scores)
    return float(np.mean([matrix[t, :t].mean() for t in range(1, len(matrix))]))


def learning_accuracy(scores: ArrayLike) -> float:
    """mean_j R[j][j]: how well tasks are learnt at all.  A method that learns nothing forgets nothing."""
    return float(_learnt(as_matrix(scores)).mean())


def backward_transfer(scores: ArrayLike) -> float | None:
    """1/(T-1) sum_{j<T} (R[T][j] - R[j][j]) (GEM, arXiv 1706.08840).  None for T = 1."""
    matrix = as_matrix(scores)
    tasks = matrix.shape[1]
    if tasks == 1:
        return None
    return float((matrix[-1] - _learnt(matrix))[:-1].mean())


def backward_transfer_trace(scores: ArrayLike) -> float | None:
    """The same sum as :func:`backward_transfer`, divided by T as TRACE does (arXiv 2310.06762).  None for T = 1."""
    value = backward_transfer(scores)
    tasks = as_matrix(scores).shape[1]
    return None if value is None else value * (tasks - 1) / tasks


def forgetting_over_stream(scores: ArrayLike) -> list[float | None]:
    """Forgetting of the tasks learnt so far, after each task t = 1 ... T; None for t = 1: nothing to forget yet.

    Entry t is mean_{j<t} (max_{1<=l<=t-1} R[l][j] - R[t][j]); the last entry is :func:`forgetting`.
    """
    matrix = as_matrix(scores)
    steps: list[float | None] = [None]
    for t in range(2, len(matrix)):
        best = matrix[1:t, : t - 1].max(axis=0)
        steps.append(float((best - matrix[t, : t - 1]).mean()))
    return steps


def forgetting(scores: ArrayLike) -> float | None:
    """mean_{j<T} (max_{1<=l<=T-1} R[l][j] - R[T][j]) (Chaudhry et al. 2018, arXiv 1801.10112).

    Neither the last row nor the base row counts as a peak; negative where a task ends above all its peaks.
    None for T = 1.
    """
    return forgetting_over_stream(scores)[-1]


def forward_transfer(scores: ArrayLike) -> float | None:
    """1/(T-1) sum_{j>=2} (R[j-1][j] - R[0][j]): what earlier tasks gave to one not yet learnt.  None for T = 1."""
    matrix = as_matrix(scores)
    tasks = matrix.shape[1]
    if tasks == 1:
        return None
    return float(np.mean([matrix[j, j] - matrix[0, j] for j in range(1, tasks)]))


def normalised_forgetting(scores: ArrayLike) -> float | None:
    """sum_{j<T} (R[j][j] - R[T][j]) / sum_{j<T} (R[j][j] - R[0][j]): the share of what was gained that was lost.

    None for T = 1 and where the gain is at most ``LEAST_GAIN`` a task: a ratio of noise to noise.
    """
    matrix = as_matrix(scores)
    tasks = matrix.shape[1]
    gained = float((_learnt(matrix) - matrix[0])[:-1].sum())
    if tasks == 1 or gained <= LEAST_GAIN * (tasks - 1):
        return None
    return float((_learnt(matrix) - matrix[-1])[:-1].sum()) / gained


def intransigence(scores: ArrayLike, afresh: Sequence[float]) -> float:
    """mean_j (R*[j] - R[j][j]) (arXiv 1801.10112): what the stream cost at learning time.

    R*, T long, is the score of a model that learns task j afresh.
    """
    learnt, best = _learnt(as_matrix(scores)), np.asarray(afresh, dtype=float)
    if best.shape != learnt.shape or not np.isfinite(best).all():
        raise ValueError(f"R* needs {len(learnt)} finite scores, one a task")
    return float((best - learnt).mean())


def delta(score: Sequence[float | None]) -> float | None:
    """After minus base: the last of ``score`` minus its first; None where either end was not scored."""
    if not score or score[0] is None or score[-1] is None:
        return None
    return float(score[-1]) - float(score[0])


def general_delta(probes: Iterable[Sequence[float | None]]) -> float | None:
    """Mean over the accuracy probes of (after - base); each probe is the T+1 scores of one trial.

    None without probes, or where one of them has a hole at an end: a mean over other probes is another metric.
    """
    deltas = [delta(score) for score in probes]
    values = [value for value in deltas if value is not None]
    return float(np.mean(values)) if values and len(values) == len(deltas) else None


def plain_text_delta(bits_per_byte: Sequence[float | None]) -> float | None:
    """Bits per byte on plain text, after - base.  Lower is better, so a positive value is a loss of general ability."""
    return delta(bits_per_byte)
