"""Made-up questions of realistic lengths, so that scoring can be timed with any tokenizer and without any data."""

from __future__ import annotations

import random
from typing import Any

from harness.scoring.lm_eval_task import TaskData

Range = tuple[int, int]


def questions(tokenizer: Any, count: int, *, context: Range, answer: Range, choices: int, seed: int = 0) -> TaskData:
    """``count`` multiple-choice documents; ``context`` and ``answer`` are the least and most tokens of each."""
    chance, words = random.Random(seed), _words(tokenizer)

    def text(lengths: Range) -> str:
        return " ".join(chance.choices(words, k=chance.randint(*lengths)))

    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        answers = list(dict.fromkeys(text(answer) for _ in range(choices)))
        if len(answers) == choices:
            rows.append({"text": text(context), "choices": answers, "label": chance.randrange(choices)})
    config = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "test_split": "test",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }
    return TaskData("questions", config, {"test": rows}, 1 / choices)


def _words(tokenizer: Any) -> list[str]:
    """Lower-case words that are one token behind a space, so that a text has as many tokens as words."""
    texts = (tokenizer.decode([token]) for token in range(min(len(tokenizer), 20_000)))
    whole = (text[1:] for text in texts if len(text) > 3 and text[0] == " ")
    words = [word for word in whole if word.isascii() and word.isalpha() and word.islower()]
    return words or ["a", "b", "c", "d", "e"]  # a byte tokenizer has no words
