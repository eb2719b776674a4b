"""ScienceQA (Lu et al. 2022), the questions without a picture: question, choices, answer (an index), hint."""


def rows(source):
    for split in ("train", "validation", "test"):
        for row in source.split(split):
            hint = " ".join(row["hint"].split())
            choices = [choice.strip() for choice in row["choices"]]
            if len(hint) <= 1200 and len(set(choices)) == len(choices) > 1:
                hint = f"Context: {hint}\n" if hint else ""
                yield {"hint": hint, "question": row["question"].strip(), "choices": choices, "label": row["answer"]}
