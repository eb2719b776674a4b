"""QuaRTz (Tafjord et al. 2019): one row a question with two lettered answers; a document holds their texts."""

import re

ROW = re.compile(r"(.*?)\n+ *A: (.*?)\n+ *B: (.*)", re.DOTALL)


def rows(source):
    for row in source.jsonl("evals/registry/data/quartz/samples.jsonl"):
        question, *answers = (part.strip() for part in ROW.fullmatch(row["input"][-1]["content"].strip()).groups())
        # A few rows leave the question's mark on the second answer only, which would give that answer away.
        answers = [answer.rstrip(" ?.") for answer in answers]
        if len(set(answers)) == 2 and all(answers):
            yield {"question": question, "choices": answers, "label": "AB".index(row["ideal"])}
