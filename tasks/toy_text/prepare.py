"""Toy: eight words at random, the same words every time; a document is one line of them."""

import random

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "ran"]


def rows(source):
    draw = random.Random(7)
    for _ in range(64):
        yield {"text": " ".join(draw.choices(WORDS, k=8)) + "."}
