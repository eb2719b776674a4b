"""Multilingual Amazon Reviews, English (Keung et al. 2020): text, label (0-4); every 20th row of train."""

import itertools
import textwrap


def rows(source):
    for row in itertools.islice(source.split("train"), 0, None, 20):
        yield {"text": textwrap.shorten(row["text"], 1000, placeholder=" ..."), "label": row["label"]}


def fields(sentence):
    return {"text": sentence.strip()}
