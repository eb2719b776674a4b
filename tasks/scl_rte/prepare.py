"""RTE (Dagan et al. 2006 and its successors): sentence1 (of at most 1200 characters), sentence2, label."""


def rows(source):
    for split in ("train", "validation"):
        for row in source.split(split):
            if len(row["sentence1"]) <= 1200:
                yield {key: row[key] for key in ("sentence1", "sentence2", "label")}


def fields(sentence):
    first, mark, second = sentence.removeprefix("sentence 1: ").partition("\nsentence 2: ")
    if not (mark and sentence.startswith("sentence 1: ")):
        raise ValueError("it has no 'sentence 1: ' and 'sentence 2: '")
    return {"sentence1": first.strip(), "sentence2": second.strip()}
