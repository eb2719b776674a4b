"""CommitmentBank (de Marneffe et al. 2019): premise, hypothesis, label (0 entailment, 1 contradiction, 2 neutral)."""


def rows(source):
    for split in ("train", "validation"):
        for row in source.split(split):
            yield {"premise": row["premise"].strip(), "hypothesis": row["hypothesis"].strip(), "label": row["label"]}


def fields(sentence):
    first, mark, second = sentence.removeprefix("sentence 1: ").partition("\nsentence 2: ")
    if not (mark and sentence.startswith("sentence 1: ")):
        raise ValueError("it has no 'sentence 1: ' and 'sentence 2: '")
    return {"premise": first.strip(), "hypothesis": second.strip()}
