"""News headlines for sarcasm detection (Misra 2019): one row a headline with 1 or 0; a document is the headline."""


def rows(source):
    for row in source.jsonl("evals/registry/data/sarcasm/samples.jsonl"):
        yield {"headline": row["input"][-1]["content"].strip(), "label": int(row["ideal"])}
