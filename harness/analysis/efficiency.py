"""How fast a task is learnt: area under the learning curve, and what it takes to reach 90 % of a reference's gain.

A learning curve is a grid of examples (or tokens) seen on one task, starting at 0, and the score at each grid point.
n = 0 is drawn but never used here: the grid proper starts at its first point above 0.  All functions raise
``ValueError`` for grids that do not increase, lengths that differ and values that are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: The share of the reference's gain that ``examples_to_90`` asks for.
SHARE = 0.9


def _grid(axis: Sequence[float], scores: Sequence[float]) -> tuple[list[float], list[float]]:
    """The points above 0 as two lists of the same length: numpy would take longer over so few numbers."""
    if len(axis) != len(scores):
        raise ValueError(f"a learning curve needs as many scores as grid points, not {len(scores)} and {len(axis)}")
    x, y = list(map(float, axis)), list(map(float, scores))
    if not all(map(math.isfinite, x + y)):
        raise ValueError("a learning curve holds a value that is not finite")
    above = [point for point in x if point > 0]
    # A method that trains nothing spends no tokens: all its points are at 0, and that is a valid, empty grid.
    if above != sorted(set(above)) or x != sorted(x):
        raise ValueError("the grid of a learning curve must increase")
    return above, y[len(x) - len(above) :]


def best_gain(examples: Sequence[float], scores: Sequence[float], base: float) -> float | None:
    """Best score of the curve above n = 0, minus the base model's score on the task; None for an empty grid."""
    _, y = _grid(examples, scores)
    return max(y) - base if y else None


def sample_efficiency_auc(examples: Sequence[float], scores: Sequence[float], base: float) -> float | None:
    """Area under score(n) - base over log2 n (trapezoid), divided by the span: a mean gain, in the unit of the score.

    ``base`` is the base model's score on the task.  With one point above 0 there is no span, and its gain is
    returned; without such a point, None.
    """
    x, y = _grid(examples, scores)
    if len(x) < 2:
        return y[0] - base if y else None
    log, gains = np.log2(x), np.array(y) - base
    # As np.trapezoid has it, which takes three times as long over so few points.
    area = ((log[1:] - log[:-1]) * (gains[1:] + gains[:-1]) / 2.0).sum()
    return float(area / (log[-1] - log[0]))


def threshold(base: float, reference_gains: Sequence[float], share: float = SHARE) -> float | None:
    """base + share x (mean over the reference's trials of their best gain); None without trials or without a gain."""
    gain = float(np.mean(reference_gains)) if len(reference_gains) else 0.0
    return base + share * gain if gain > 0 else None


def first_reached(axis: Sequence[float], scores: Sequence[float], level: float) -> float | None:
    """First grid point above 0 with score >= ``level`` that holds at the next point; None where it never does.

    The last point counts if the level is reached there.  ``axis`` is examples, or tokens spent.
    """
    x, y = _grid(axis, scores)
    after = [*y[1:], math.inf]
    return next((point for point, *both in zip(x, y, after, strict=False) if min(both) >= level), None)


@dataclass(frozen=True)
class Restricted:
    """Times to an event of which some never happened within the limit (right-censored)."""

    share: float  #: of the times that fall within the limit
    mean: float  #: restricted mean: the mean of min(time, limit), with the limit where it never happened


def restricted_mean(times: Sequence[float | None], limits: Sequence[float]) -> Restricted | None:
    """Share reached and restricted mean over tasks; one limit a time, the same for every method.

    A mean over those that were reached would favour a method that reaches only easy tasks.  A curve that ends below
    the limit counts with the limit where it never got there: it had the whole task.  None for no times.
    """
    if len(times) != len(limits):
        raise ValueError(f"{len(times)} times need as many limits, not {len(limits)}")
    if not times:
        return None
    reached = [time is not None and time <= limit for time, limit in zip(times, limits, strict=True)]
    held = [min(limit if time is None else time, limit) for time, limit in zip(times, limits, strict=True)]
    return Restricted(share=float(np.mean(reached)), mean=float(np.mean(held)))
