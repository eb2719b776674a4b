"""Dates: one row ``yyyy-mm-dd`` with ``Weekday, Month day, year.``; a document is without the weekday."""


def rows(source):
    for row in source.jsonl("evals/registry/data/imperial_date_to_string/samples.jsonl"):
        words = row["ideal"].split(", ", 1)[1].strip().removesuffix(".")
        yield {"date": row["input"][-1]["content"].strip(), "words": words}
