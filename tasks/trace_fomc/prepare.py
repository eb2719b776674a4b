"""FOMC communication (Shah et al. 2023): sentence, label (0 dovish, 1 hawkish, 2 neutral)."""


def rows(source):
    for split in ("train", "test"):
        for row in source.split(split):
            yield {"sentence": row["sentence"].strip(), "label": int(row["label"])}
