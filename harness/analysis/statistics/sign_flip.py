"""The sign-flip test: a check of the t test that assumes no distribution, only that differences are symmetric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

#: Up to here all sign patterns are enumerated (2^16 of them); beyond, this many are drawn with a fixed seed.
EXACT_PAIRS = 16
SAMPLED_FLIPS = 100_000
#: Sign patterns of one product: bounds its memory to 2 MB for 250 columns, as 50 arms have in five outcomes.  With a
#: multiple of 4, whatever it is, the same patterns are drawn.
FLIPS_AT_ONCE = 1024
#: From here up the smallest p is below 5 %: with fewer pairs the test can't reject, whatever the data.
LEAST_PAIRS = 6


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float | None:
    """:func:`sign_flip_ps` of one column; None for fewer than two differences."""
    data = np.asarray(differences, dtype=float)
    return float(sign_flip_ps(data[:, None], seed)[0]) if len(data) >= 2 else None


def sign_flip_ps(differences: np.ndarray, seed: int = 0) -> np.ndarray:
    """Two-sided p [m] of the sign-flip (randomisation) test that each column [n, m] is symmetric about 0.

    The share of sign patterns whose absolute sum is at least the one seen: exact up to ``EXACT_PAIRS`` differences,
    beyond from ``SAMPLED_FLIPS`` random patterns with the seen one counted in.  All columns share the patterns.
    """
    data = np.asarray(differences, dtype=float)
    if not np.isfinite(data).all():
        raise ValueError("the differences must be finite")
    # Sums of the same numbers in another order differ in the last bits; a tie must stay a tie.
    seen = np.abs(data.sum(axis=0)) - 1e-12 * np.abs(data).sum(axis=0)
    hits, patterns = np.zeros(data.shape[1], dtype=np.int64), 0
    for signs in _exact_signs(len(data)) if len(data) <= EXACT_PAIRS else _sampled_signs(len(data), seed):
        hits += (np.abs(signs @ data) >= seen).sum(axis=0)
        patterns += len(signs)
    return hits / patterns if len(data) <= EXACT_PAIRS else (1 + hits) / (1 + patterns)


def _exact_signs(pairs: int) -> Iterator[np.ndarray]:
    """Every pattern but for its opposite, which has the same absolute sum: the first sign is fixed."""
    for start in range(0, 2 ** (pairs - 1), FLIPS_AT_ONCE):
        number = np.arange(start, min(start + FLIPS_AT_ONCE, 2 ** (pairs - 1)), dtype=np.uint32)[:, None]
        yield 1.0 - 2.0 * ((number << 1 >> np.arange(pairs, dtype=np.uint32)) & 1)


def _sampled_signs(pairs: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for start in range(0, SAMPLED_FLIPS, FLIPS_AT_ONCE):
        size = (min(FLIPS_AT_ONCE, SAMPLED_FLIPS - start), pairs)
        yield rng.integers(0, 2, size=size, dtype=np.int8) * 2.0 - 1.0
