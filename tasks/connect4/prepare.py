"""Connect-four boards: one row a board of six lines (0, X, Y) with its winner; the single draw is left out."""


def rows(source):
    for row in source.jsonl("evals/registry/data/connect4/samples.jsonl"):
        if row["ideal"] in "XY":
            board = row["input"][0]["content"].split("\n", 1)[1].strip()
            yield {"board": board, "label": "XY".index(row["ideal"])}
