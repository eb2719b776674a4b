"""COPA (Roemmele et al. 2011): premise, choice1, choice2, question (cause or effect), label (0 or 1)."""

import re

#: A sentence of the benchmark's own files.
COPA = re.compile(
    r'Which sentence is the (cause|effect) of "(.*)"\? Choose one between A and B\.\nA: (.*)\nB: (.*)', re.S
)


def rows(source):
    for split in ("train", "validation"):
        for row in source.split(split):
            choices = [row["choice1"], row["choice2"]]
            yield {"premise": row["premise"], "question": row["question"], "choices": choices, "label": row["label"]}


def fields(sentence):
    found = COPA.fullmatch(sentence.strip())
    if not found:
        raise ValueError("it has no question about a cause or an effect with sentences A and B")
    question, premise, first, second = (part.strip() for part in found.groups())
    return {"premise": premise, "question": question, "choices": [first, second]}
