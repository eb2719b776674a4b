"""Naughty strings (Woolf) and harmless names: one row a string with Yes or No; a document is the string's first 48
characters: what makes it naughty shows there, and the longest have hundreds of tokens."""

ASKS = "Is this string malicious? "


def rows(source):
    for row in source.jsonl("evals/registry/data/naughty_strings/samples.jsonl"):
        string = row["input"][-1]["content"].removeprefix(ASKS).strip()
        yield {"string": string[:48], "label": ["No", "Yes"].index(row["ideal"])}
