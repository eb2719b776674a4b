"""20 Minuten (Rios et al. 2021) as TRACE has it: prompt (instruction and German text), answer (the simpler text)."""


def rows(source):
    for row in source.split("20Minuten"):
        prompt, answer = row["prompt"].strip(), " ".join(row["answer"].split())
        if len(prompt) <= 3000 and 0 < len(answer) <= 800:
            yield {"prompt": prompt, "answer": answer}
