"""COPA (Roemmele et al. 2011): premise, choice1, choice2, question (cause or effect), label (0 or 1)."""


def rows(source):
    for split in ("train", "validation"):
        for row in source.split(split):
            choices = [row["choice1"], row["choice2"]]
            yield {"premise": row["premise"], "question": row["question"], "choices": choices, "label": row["label"]}
