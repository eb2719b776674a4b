"""Made-up rows with the columns of the hub's data sets that the tasks scl_* and trace_* read."""

from __future__ import annotations

from collections.abc import Callable

LONG = " and so on with many more words" * 200  # longer than any task shows


def _label(i: int, labels: int) -> int:
    """Every label, also of the rows that are left when only every n-th is read."""
    return (i // 100 + i) % labels


def _review(labels: int) -> Callable[[int], dict]:
    return lambda i: {"text": f"Review {i}\\nof<br />this place.{LONG if i % 200 else ''}", "label": _label(i, labels)}


def _glue(first: str, second: str, labels: int) -> Callable[[int], dict]:
    return lambda i: {first: f"It is {i} . ", second: f"Is it {i}?", "label": _label(i, labels), "idx": i}


def _trace(prompt: str, answer: Callable[[int], str]) -> Callable[[int], dict]:
    return lambda i: {"prompt": prompt.format(i), "answer": answer(i)}


def _dbpedia(i: int) -> dict:
    return {"label": _label(i, 14), "title": f"Thing {i}", "content": f" Thing {i} is a thing.{LONG}"}


def _amazon(i: int) -> dict:
    row = _review(5)(i)
    return {"id": f"en_{i}", **row, "label_text": str(row["label"])}


def _yahoo(i: int) -> dict:
    return {"id": i, "topic": _label(i, 10), "question_title": f"Why {i}?", "question_content": "",
            "best_answer": f"Because.\\n{LONG}"}  # fmt: skip


def _wic(i: int) -> dict:
    return {"word": "bank", "sentence1": f"The bank of river {i}.", "sentence2": f"A bank with {i} coins.",
            "start1": 4, "start2": 2, "end1": 8, "end2": 6, "idx": i, "label": _label(i, 2)}  # fmt: skip


def _copa(i: int) -> dict:
    return {"premise": f"Man {i} fell.", "choice1": "He slipped.", "choice2": f"He saw {i} birds.",
            "question": ("cause", "effect")[i % 2], "idx": i, "label": _label(i, 2)}  # fmt: skip


def _boolq(i: int) -> dict:
    return {"question": f"is {i} a number", "passage": f"Here is {i}.{LONG if i % 7 == 0 else ''}", "idx": i,
            "label": int(i % 3 > 0)}  # fmt: skip


def _multirc(i: int) -> dict:
    paragraph = i // 40
    return {"paragraph": f"Story {paragraph}.{LONG if paragraph % 5 == 0 else ''}", "question": f"Who is {i}? ",
            "answer": f"Ann {i}", "idx": {"paragraph": paragraph, "question": i, "answer": i},
            "label": _label(i, 2)}  # fmt: skip


def _fomc(i: int) -> dict:
    return {"index": i, "sentence": f"Rates rose by {i} points. ", "year": 2000, "label": _label(i, 3), "orig_index": i}


def _meeting(i: int) -> dict:
    summary = f"Item {i}\nwas adopted." if i % 3 else f"Item {i}.{LONG}"
    return {"summary": summary, "uid": f"City_{i}", "id": i, "transcript": f"Item {i}. Thank you.{LONG}"}


def _py150(i: int) -> dict:
    begin = "<s> import sys <EOL> " * (100 if i % 2 else 1)
    return {"id": i, "input": f"{begin}x = <NUM_LIT:{i}> <EOL> y = <STR_LIT> <EOL>",
            "gt": f"print ( <STR_LIT:n{i}> , <NUM_LIT> )"}  # fmt: skip


def _science(i: int) -> dict:
    choices = [f"stone {i}", "water", "air"][: 2 + i % 2]
    return {"question": f"What is {i}?", "choices": choices, "answer": i % 2, "hint": "See the map." if i % 2 else "",
            "task": "closed choice", "grade": "grade2", "subject": "natural science", "topic": "physics",
            "category": "c", "skill": "s", "lecture": "l", "solution": "s"}  # fmt: skip


def _siqa(i: int) -> dict:
    return {"context": f"Ann gave Eve {i} coins. ", "question": "How does Eve feel?", "answerA": f"sad {i}",
            "answerB": "glad", "answerC": "nothing", "label": str(1 + i // 3 % 3)}  # fmt: skip


#: task: row of a number
ROWS: dict[str, Callable[[int], dict]] = {
    "scl_dbpedia": _dbpedia,
    "scl_amazon": _amazon,
    "scl_yahoo": _yahoo,
    "scl_ag_news": _review(4),
    "scl_mnli": _glue("premise", "hypothesis", 3),
    "scl_cb": _glue("premise", "hypothesis", 3),
    "scl_wic": _wic,
    "scl_copa": _copa,
    "scl_qqp": _glue("question1", "question2", 2),
    "scl_boolq": _boolq,
    "scl_rte": _glue("sentence1", "sentence2", 2),
    "scl_imdb": _review(2),
    "scl_yelp": _review(5),
    "scl_sst2": lambda i: {"sentence": f"a fine film {i} ", "label": _label(i, 2), "idx": i},
    "scl_multirc": _multirc,
    "siqa": _siqa,
    "trace_c_stance": _trace("判断以下文本，选择一项。\n文本：\n第{}条\n对象：\n价格\n态度：", lambda i: "ABC"[i % 3]),
    "trace_fomc": _fomc,
    "trace_meetingbank": _meeting,
    "trace_py150": _py150,
    "trace_scienceqa": _science,
    "trace_numglue_cm": _trace("Solve the following math problem.\nQuestion:\nWhat is {} and 1?\nAnswer: ", str),
    "trace_numglue_ds": _trace("Solve the following math problem.\nQuestion:\nHow fast is {}?\nAnswer:", str),
    "trace_20minuten": _trace(
        "Provide a simplified version.\n\nParagraph:\nEs gab {} Leute.\n", lambda i: f"{i}\nLeute"
    ),
}
