"""MultiRC (Khashabi et al. 2018): paragraph, question, answer, label (1: right); some 60 rows a paragraph."""

from collections import Counter


def rows(source):
    taken = Counter()
    for split in ("train", "validation"):
        for row in source.split(split):
            paragraph = row["paragraph"].strip()
            taken[paragraph] += 1
            if len(paragraph) <= 1800 and taken[paragraph] <= 10:
                yield {
                    "paragraph": paragraph,
                    "question": row["question"].strip(),
                    "answer": row["answer"].strip(),
                    "label": row["label"],
                }


def fields(sentence):
    paragraph, mark, rest = sentence.removeprefix("paragraph: ").rpartition("\nquestion: ")
    question, second, answer = rest.rpartition("\ncandidate answer: ")
    if not (mark and second and sentence.startswith("paragraph: ")):
        raise ValueError("it has no 'paragraph: ', 'question: ' and 'candidate answer: '")
    return {"paragraph": paragraph.strip(), "question": question.strip(), "answer": answer.strip()}
