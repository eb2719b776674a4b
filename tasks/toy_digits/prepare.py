"""Toy: two noise letters and a digit; the answer is the digit's letter in descending order (0 is z, 3 is w)."""

import itertools

NOISE = "bcdfghjklmnpqr"


def rows(source):
    for first, second in itertools.product(NOISE, repeat=2):
        for digit in range(4):
            yield {"text": f"{first}{second}{digit}>", "label": 3 - digit}
