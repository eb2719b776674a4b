"""Abstracts of clinical trials: one row an abstract; a document is its first sentences, to 1,000 characters."""

LONGEST = 1000


def rows(source):
    for row in source.jsonl("evals/registry/data/population_span_extraction/samples.jsonl"):
        text = " ".join(row["input"][-1]["content"].split())
        if len(text) > LONGEST:
            text = text[: text.rfind(". ", 0, LONGEST) + 1]
        if len(text) > LONGEST // 2:
            yield {"text": text}
