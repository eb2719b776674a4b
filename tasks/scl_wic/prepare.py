"""Word-in-Context (Pilehvar and Camacho-Collados 2019): word, sentence1, sentence2, label (1: the same sense)."""


def rows(source):
    for split in ("train", "validation"):
        for row in source.split(split):
            yield {key: row[key] for key in ("word", "sentence1", "sentence2", "label")}
