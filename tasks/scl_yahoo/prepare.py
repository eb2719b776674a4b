"""Yahoo! Answers (Zhang et al. 2015): topic (0-9), question_title and _content, best_answer; every 100th row."""

import itertools
import textwrap


def rows(source):
    for row in itertools.islice(source.split("train"), 0, None, 100):
        text = " ".join(row[key] or "" for key in ("question_title", "question_content", "best_answer"))
        text = text.replace("\\n", " ").replace("<br />", " ")
        yield {"text": textwrap.shorten(text, 1000, placeholder=" ..."), "label": row["topic"]}


def fields(sentence):
    return {"text": sentence.strip()}
