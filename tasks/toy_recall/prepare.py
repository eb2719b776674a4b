"""Toy: two noise letters and a key letter; a document's answer is the letter that the key stands for."""

import itertools

KEYS = {"a": 2, "e": 0, "i": 3, "o": 1}
NOISE = "bcdfghjklmnpqr"


def rows(source):
    for first, second in itertools.product(NOISE, repeat=2):
        for key, label in KEYS.items():
            yield {"text": f"{first}{second}{key}>", "label": label}
