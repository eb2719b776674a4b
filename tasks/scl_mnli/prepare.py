"""MultiNLI (Williams et al. 2018): premise, hypothesis, label (0-2); every 40th row of train."""

import itertools


def rows(source):
    for row in itertools.islice(source.split("train"), 0, None, 40):
        yield {"premise": row["premise"].strip(), "hypothesis": row["hypothesis"].strip(), "label": row["label"]}
