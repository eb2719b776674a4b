"""CommitmentBank (de Marneffe et al. 2019): premise, hypothesis, label (0 entailment, 1 contradiction, 2 neutral)."""


def rows(source):
    for split in ("train", "validation"):
        for row in source.split(split):
            yield {"premise": row["premise"].strip(), "hypothesis": row["hypothesis"].strip(), "label": row["label"]}
