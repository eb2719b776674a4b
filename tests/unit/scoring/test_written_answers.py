"""Choices as written answers (scoring.answers: generated): what is asked, trained on and counted."""

from __future__ import annotations

from typing import Any

import lm_eval.utils
import pytest

from harness.errors import InputError
from harness.scoring.encoding import Encoder
from harness.scoring.examples import majority
from harness.scoring.lm_eval_task import TaskData
from harness.scoring.suite import Suite
from harness.study.config import ScoringSettings

CHOICES = ["negative", "positive"]
CONFIG: dict[str, Any] = {
    "task": "films", "output_type": "multiple_choice", "training_split": "train", "test_split": "test",
    "doc_to_text": "{{text}}\nSentiment:", "doc_to_choice": CHOICES, "doc_to_target": "label",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip
ROWS = [{"text": f"Film {i}.\nIt was long.", "label": int(i % 3 == 0)} for i in range(6)]


def suite(generated: bool = True, **changes: Any) -> Suite:
    data = TaskData("films", CONFIG | changes, {"train": ROWS[:2], "test": ROWS[2:]}, 0.5, generated=generated)
    return Suite([data], split="test", items={})


def test_the_choices_stand_above_the_last_line_of_the_prompt():
    scored = suite().tasks["films"]
    (prompt, settings), *_ = [instance.args for instance in scored.task.instances]
    assert prompt == "Film 2.\nIt was long.\nOptions: negative, positive\nSentiment:"
    assert (settings["until"], settings["max_gen_toks"], settings["do_sample"]) == (["\n"], 9, False)
    assert (scored.metric, scored.kind, scored.chance, scored.higher_is_better) == (
        "exact_match",
        "generate_until",
        0,
        1,
    )
    assert majority(scored) == majority(suite(generated=False).tasks["films"]) == 3 / 4


def test_a_question_of_one_line_has_its_choices_below():
    scored = suite(doc_to_text="Is film {{label}} good?").tasks["films"]
    assert scored.task.instances[0].args[0] == "Is film 0 good?\nOptions: negative, positive\nAnswer:"


def test_training_ends_with_the_answer_and_its_end():
    texts: list[tuple[str, str]] = []

    def encode(prompt: str, answer: str) -> tuple[list[int], list[int]]:
        texts.append((prompt, answer))
        return [1], [2]

    examples = list(suite().training_examples("films", Encoder(encode, 9)))
    assert texts == [
        ("Film 0.\nIt was long.\nOptions: negative, positive\nSentiment:", " positive"),
        ("Film 1.\nIt was long.\nOptions: negative, positive\nSentiment:", " negative"),
    ]
    assert [example.ids.tolist() for example in examples] == [[1, 2, 9]] * 2


@pytest.mark.parametrize(("answer", "counts"), [
    ("positive", 1), ("Positive", 1), ("positive.", 1), ("negative", 0), ("", 0), ("positive negative", 0),
])  # fmt: skip
def test_an_answer_counts_where_its_text_is_the_right_choice(answer, counts):
    task = suite().tasks["films"].task
    assert task.process_results(ROWS[3], [answer]) == {"exact_match": counts}


def test_choices_of_each_document_are_listed():
    rows = [{"text": f"Film {i}\nWhy?", "label": 1, "choices": [f"a {i}", f"b {i}"]} for i in range(6)]
    data = TaskData("films", CONFIG | {"doc_to_choice": "choices"}, {"test": rows}, 0.5, generated=True)
    scored = Suite([data], split="test", items={}).tasks["films"]
    assert scored.task.instances[4].args[0] == "Film 4\nWhy?\nOptions: a 4, b 4\nSentiment:"
    assert scored.task.doc_to_target(rows[4]) == "b 4"


def test_a_label_that_is_no_choice_is_refused():
    wrong = [*ROWS[:3], {"text": "Film", "label": 5}]
    with pytest.raises(InputError, match="label 5 is not one of the 2 choices"):
        Suite([TaskData("films", CONFIG, {"test": wrong}, 0.5, generated=True)], split="test", items={})


def test_choices_that_are_questions_are_refused():
    rows = [{"text": "x", "label": 0, "options": ["Ann _", "Eve _"]} for _ in range(4)]
    config = CONFIG | {"doc_to_text": "label", "doc_to_choice": "{{options}}", "doc_to_target": "was kind."}
    with pytest.raises(InputError, match="questions to one answer"):
        Suite([TaskData("films", config, {"test": rows}, 0.5, generated=True)], split="test", items={})


def test_only_a_new_way_of_answering_is_part_of_the_identity():
    """As it was before there was a choice, a trial is the one that it was."""
    assert "answers" not in ScoringSettings().identity
    assert ScoringSettings(answers="generated").identity == ScoringSettings().identity | {"answers": "generated"}


def test_a_template_is_compiled_once_for_all_rows(monkeypatch):
    compiled: list[str] = []
    compile_it = lm_eval.utils.env.compile
    counted = lambda source, *args, **kwargs: compiled.append(source) or compile_it(source, *args, **kwargs)  # noqa: E731
    monkeypatch.setattr(lm_eval.utils.env, "compile", counted)
    template = "{{text}} Is it any good?"
    scored = suite(generated=False, doc_to_text=template).tasks["films"]
    asked = [instance.args[0] for instance in scored.task.instances[::2]]
    assert asked == [f"{row['text']} Is it any good?" for row in ROWS[2:]]
    assert compiled.count(template) == 1
