"""What a teacher with the demonstration reads: the student's question with the answer shown, and the same answer."""

from __future__ import annotations

import pytest

from baselines.self_distill import TEACHER_PROMPT
from harness.scoring.encoding import Encoder
from harness.scoring.lm_eval_task import Prompting, TaskData
from harness.scoring.suite import Suite

CHOICE = {
    "output_type": "multiple_choice", "doc_to_text": "{{q}} {prompt}\nAnswer:", "doc_to_target": "{{label}}",
    "doc_to_choice": ["yes", "no"], "metric_list": [{"metric": "acc"}],
}  # fmt: skip
SAID = {
    "output_type": "generate_until", "doc_to_text": "{{q}}\nAnswer:", "doc_to_target": "{{label}}",
    "generation_kwargs": {"until": ["\n"]}, "metric_list": [{"metric": "exact_match"}],
}  # fmt: skip
END = -1


def encode(context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Characters as tokens, with spaces at the end moved to the answer as lm-eval does."""
    moved = len(context) - len(context.rstrip())
    context, continuation = context[: len(context) - moved], context[len(context) - moved :] + continuation
    return [ord(c) for c in context], [ord(c) for c in continuation]


def chat(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    turns = "".join(f"<{m['role']}>{m['content']}</>" for m in messages)
    return turns + ("<assistant>" if add_generation_prompt else "")


def text(ids) -> str:
    return "".join(chr(i) for i in ids if i != END)


def examples(config, rows, template, prompting=None):
    data = TaskData("t", config, {"train": rows, "test": rows}, None)
    suite = Suite([data], split="test", items={}, prompting=prompting)
    return [list(suite.training_examples("t", Encoder(encode, END), shown)) for shown in (None, template)]


@pytest.mark.parametrize(("config", "labels"), [(CHOICE, [1, 0]), (SAID, ["up {prompt}", "down"])])
def test_the_demonstration_stands_in_the_teacher_s_prompt_alone(config, labels):
    rows = [{"q": f"Is it {n}?", "label": label} for n, label in zip(("so", "not"), labels, strict=True)]
    plain, shown = examples(config, rows, TEACHER_PROMPT)
    for student, taught in zip(plain, shown, strict=True):
        assert taught.ids.tolist() == student.ids.tolist()
        assert (student.shown, taught.answer_start) == (None, student.answer_start)
        asked, answer = text(student.prompt), text(student.answer).strip()
        assert text(taught.shown) == f"{asked} {answer}\n\n{asked}"
        assert taught.teacher_ids.tolist()[len(taught.shown) :] == student.answer.tolist()


def test_in_a_chat_the_demonstration_is_in_the_user_s_turn():
    rows = [{"q": "Is it so?", "label": 0}]
    ((student,), (taught,)) = examples(CHOICE, rows, "{prompt}|{demonstration}|{prompt}", Prompting({}, chat))
    asked = text(student.prompt).removeprefix("<user>").removesuffix("</><assistant>")
    assert "Is it so?" in asked
    assert text(taught.shown) == f"<user>{asked}|yes|{asked}</><assistant>"
    assert text(taught.answer) == text(student.answer)


def test_spaces_at_a_prompts_end_belong_to_the_answer():
    spaced = {**SAID, "doc_to_text": "{{q}} ->", "target_delimiter": "  "}
    ((student,), (taught,)) = examples(spaced, [{"q": "two", "label": "x"}], "{demonstration}: {prompt} ")
    assert text(student.answer) == "  x"
    assert text(taught.shown) == "x: two ->"
