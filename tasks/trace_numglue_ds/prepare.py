"""NumGLUE, task 2 (Mishra et al. 2022), as TRACE has it: prompt (instruction and question), answer (a number)."""


def rows(source):
    for row in source.split("NumGLUE_ds"):
        yield {"prompt": row["prompt"].strip(), "answer": str(row["answer"]).strip()}
