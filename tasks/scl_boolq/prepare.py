"""BoolQ (Clark et al. 2019): question, passage, label (1: yes)."""


def rows(source):
    sides = {0: [], 1: []}
    for row in source.split("train"):
        if len(row["passage"]) <= 1200:
            sides[row["label"]].append({key: row[key] for key in ("passage", "question", "label")})
    for pair in zip(*sides.values(), strict=False):  # as many of each
        yield from pair


def fields(sentence):
    question, mark, passage = sentence.removeprefix("question: ").partition("\npassage: ")
    if not (mark and sentence.startswith("question: ")):
        raise ValueError("it has no 'question: ' and 'passage: '")
    return {"passage": passage.strip(), "question": question.strip()}
