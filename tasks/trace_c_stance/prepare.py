"""C-STANCE (Zhao et al. 2023) as TRACE has it: prompt (instruction, text, target), answer (A, B, C or the word)."""

STANCES = ["支持", "反对", "中立"]  # A, B, C


def rows(source):
    for row in source.split("C_STANCE"):
        _, _, text = row["prompt"].strip().partition("\n")
        answer = row["answer"].strip().rstrip(".。")
        label = "ABC".index(answer) if answer in ("A", "B", "C") else STANCES.index(answer)
        yield {"text": text, "label": label}
