"""What the statistics promise, by simulation: coverage, family-wise error and power in 2,000 studies in one run.

A study has five arms and plain LoRA, three orders of five seeds.  A trial's score is the mean over three tasks of the
share of 200 items answered right; its chance of a right answer has luck that all arms of a seed share (so pairs are
correlated) and luck of its own, and one order is so easy that it is cut at the ceiling of 1.
"""

from __future__ import annotations

import numpy as np
import pytest

from harness.analysis.statistics import (
    LEVEL,
    Paired,
    _weights,
    holm_ps,
    minimum_detectable_effect,
    sign_flip_ps,
    stratified_errors,
    t_quantile,
)

STUDIES, ARMS, SEEDS = 2_000, 5, 5
LEVELS = (0.70, 0.80, 0.97)  #: by order; the last is at the ceiling
STRATA = [order for order in "abc" for _ in range(SEEDS)]
#: Standard error of a simulated share of about 5 %, and how far it may be off: three of them.
NOISE = 3 * np.sqrt(0.05 * 0.95 / STUDIES)


def studies(count: int, gains: np.ndarray, seed: int) -> np.ndarray:
    """Scores [15, 1 + arms, count] of plain LoRA (first) and of arms that are better by ``gains``."""
    rng = np.random.default_rng(seed)
    level = np.repeat(LEVELS, SEEDS)[:, None, None, None] + np.array([0.0, *gains])[:, None, None]
    shape = (len(STRATA), 1 + len(gains), count, 3)
    shared = rng.normal(0, 0.03, (len(STRATA), 1, count, 1))
    chance = np.clip(level + shared + rng.normal(0, 0.02, (*shape[:3], 1)) + rng.normal(0, 0.02, shape), 0, 1)
    return rng.binomial(200, chance).mean(axis=-1) / 200


def answers(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(differences to LoRA [arms, studies], p after Holm over the arms [arms, studies])."""
    gaps = (scores[:, 1:] - scores[:, :1]).reshape(len(STRATA), -1)
    shape = scores.shape[1] - 1, scores.shape[2]
    p = sign_flip_ps(gaps * _weights(STRATA)[:, None]).reshape(shape)
    return stratified_errors(gaps, STRATA)[0].reshape(shape), holm_ps(p)


def covered(values: np.ndarray, truth: float) -> float:
    """Share of the columns whose 95 % interval holds the truth."""
    means, errors, df = stratified_errors(values, STRATA)
    return float(np.mean(np.abs(means - truth) <= t_quantile(df) * errors))


@pytest.fixture(scope="module")
def equal() -> np.ndarray:
    return studies(STUDIES, np.zeros(ARMS), seed=1)


def test_pairs_are_correlated_and_the_ceiling_is_met(equal):
    within = equal - equal.reshape(3, SEEDS, *equal.shape[1:]).mean(axis=1).repeat(SEEDS, axis=0)
    assert np.corrcoef(within[:, 0].ravel(), within[:, 1].ravel())[0, 1] > 0.4
    assert np.mean(equal[-SEEDS:] > 0.99) > 0.1


def test_intervals_cover(equal):
    """93 to 97 %, of a mean and of a paired difference between arms that do differ."""
    assert 0.93 <= covered(equal[:, 0], studies(200_000, np.array([]), seed=2).mean()) <= 0.97
    better = studies(STUDIES, np.array([0.02]), seed=3)
    truth = np.diff(studies(100_000, np.array([0.02]), seed=4).mean(axis=(0, 2)))[0]
    assert 0 < truth < 0.02, "the ceiling takes a part of the gain"
    assert 0.93 <= covered(better[:, 1] - better[:, 0], truth) <= 0.97


def test_equal_arms_are_rarely_called_better_than_lora(equal):
    means, p = answers(equal)
    any_difference = float(np.mean((p < LEVEL).any(axis=0)))
    better = float(np.mean(((p < LEVEL) & (means > 0)).any(axis=0)))
    assert better <= any_difference <= 0.05 + NOISE
    assert any_difference > 0.02, "a test that never finds anything says nothing"


def test_power_at_the_stated_minimum_detectable_effect(equal):
    """A study states it from its own spread; at its mean over studies the first step of Holm finds 75 to 85 %."""
    gaps = equal[:, 1] - equal[:, 0]
    means, errors, df = stratified_errors(gaps, STRATA)
    stated = [
        minimum_detectable_effect(Paired(mean, None, None, len(STRATA), 1.0, error, df), tests=ARMS)
        for mean, error in zip(means[:400], errors[:400], strict=True)
    ]
    found = gaps + float(np.mean(stated))
    power = float(np.mean(sign_flip_ps(found * _weights(STRATA)[:, None]) < LEVEL / ARMS))
    assert 0.75 <= power <= 0.85
