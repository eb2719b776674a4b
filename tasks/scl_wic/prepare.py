"""Word-in-Context (Pilehvar and Camacho-Collados 2019): word, sentence1, sentence2, label (1: the same sense)."""


def rows(source):
    for split in ("train", "validation"):
        for row in source.split(split):
            yield {key: row[key] for key in ("word", "sentence1", "sentence2", "label")}


def fields(sentence):
    lines = [line.strip() for line in sentence.strip().split("\n")]
    if len(lines) != 3 or not lines[0].startswith("word: "):
        raise ValueError("it has no 'word: ' with two sentences below")
    return {"word": lines[0].removeprefix("word: "), "sentence1": lines[1], "sentence2": lines[2]}
