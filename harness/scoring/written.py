"""A task of choices as one of written answers: the choices stand in the prompt, and the answer's text is compared.

    The film was dull.                      The film was dull.
    Sentiment:                     ->       Options: negative, positive
                                            Sentiment:

The options stand above the last line of the prompt, so that a long text that loses its beginning keeps them.  An answer
counts where it is that of the right choice, whatever its case, punctuation and spaces at its ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import InputError

#: Keys of lm-eval's configuration that go on: where documents come from, and what stands around a question.
KEPT = (
    "process_docs", "description", "target_delimiter", "fewshot_split", "fewshot_delimiter", "fewshot_config",
    "num_fewshot", "metadata",
)  # fmt: skip


def place_of_answer(task: Any, row: Mapping[str, Any]) -> int | None:
    """The place of the right answer among a row's requests, as ``ConfigurableTask.process_results`` finds it."""
    choices = task.doc_to_choice(row)
    gold = task.doc_to_text(row) if task.multiple_input else task.doc_to_target(row)
    gold = gold[0] if isinstance(gold, list) and gold else gold
    if isinstance(gold, str):
        return choices.index(gold) if gold in choices else None
    return gold if isinstance(gold, int) and 0 <= gold < len(choices) else None


def written(config: Mapping[str, Any], choices: Any, name: str) -> dict[str, Any]:
    """The configuration of the task ``choices`` (lm-eval's object, made of ``config``) with written answers.

    Raises InputError for a task whose choices are questions: there is one answer to all of them, and nothing to write.
    """
    if choices.multiple_input:
        raise InputError(
            f"the choices of '{name}' are questions to one answer, so none can be written as an answer",
            where="scoring.answers",
            remedy=f"set scoring.answers: ranked, or leave '{name}' out of the streams",
        )

    def options(row: Mapping[str, Any]) -> list[str]:
        return [str(choice) for choice in choices.doc_to_choice(row)]

    def asked(row: Mapping[str, Any]) -> str:
        text, listed = str(choices.doc_to_text(row)), f"Options: {', '.join(options(row))}"
        before, line_end, cue = text.rpartition("\n")
        return f"{before}\n{listed}\n{cue}" if line_end else f"{text}\n{listed}\nAnswer:"

    def answer(row: Mapping[str, Any]) -> str:
        place = place_of_answer(choices, row)
        if place is None:
            raise InputError(
                f"label {choices.doc_to_target(row)!r} is not one of the {len(options(row))} choices",
                where=name,
                remedy="correct the row or the task's doc_to_target",
            )
        return options(row)[place]

    longest = max(len(choice.encode()) for row in choices.eval_docs for choice in options(row))
    return {
        **{key: config[key] for key in KEPT if key in config},
        "output_type": "generate_until",
        "doc_to_text": asked,
        "doc_to_target": answer,
        # No tokenizer makes more tokens than bytes; who ends its answer, as trained models do, stops before.
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": longest + 1, "do_sample": False},
        "filter_list": [
            {"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
        ],
        "metric_list": [
            {
                "metric": "exact_match",
                "aggregation": "mean",
                "higher_is_better": True,
                "ignore_case": True,
                "ignore_punctuation": True,
            }
        ],
    }
