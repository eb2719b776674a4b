"""Social IQa (Sap et al. 2019): one row a situation, a question and three lettered answers."""

import re

ROW = re.compile(r"(.*) A: (.*); B: (.*); C: (.*)\.", re.DOTALL)


def rows(source):
    for row in source.jsonl("evals/registry/data/theory_of_mind/socialiqa/test.jsonl"):
        situation, *answers = (part.strip() for part in ROW.fullmatch(row["input"][-1]["content"].strip()).groups())
        if len(set(answers)) == 3:
            yield {"situation": situation, "choices": answers, "label": "ABC".index(row["ideal"])}
