"""``lorabench new task``: a folder with a YAML, ``prepare.py`` and the rows, from a JSONL file of one's own.

A row is a question and its answer.  With a column of choices, or where few answers repeat, it becomes multiple choice;
else the answer is generated and has to match.  Whatever is odd is refused with its line, before anything is written.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.data import paths, splits
from harness.data.tasks import PreparedTask, Task, prepare_task
from harness.errors import InputError

LEAST_ROWS = 40
#: So few different answers, each so often, are the classes of a classification.
MOST_CLASSES, LEAST_OF_CLASS = 10, 5
LONGEST_ANSWER = 96  # characters of a generated answer: some 32 tokens
DATA = "data.jsonl"
PROMPT = "{{question}}\nAnswer:"
SEED = 20260

PREPARE = '''"""{name}: {rows} rows of one's own."""

import json


def rows(source):
    yield from map(json.loads, source.file("{data}").splitlines())
'''


@dataclass(frozen=True)
class Columns:
    """What the columns are called; ``choices`` may be missing from the rows."""

    question: str = "question"
    answer: str = "answer"
    choices: str = "choices"


def new_task(name: str, source: Path, folder: Path, columns: Columns, licence: str) -> tuple[PreparedTask, str]:
    """Write ``folder/name`` and build its splits; returns them with a line about what it has become.

    Raises InputError as ``file:line`` for rows that are odd; ``name`` has been checked.
    """
    target = folder / name
    if target.exists():
        raise InputError("there is something of this name already", where=str(target), remedy="choose another name")
    rows = _read(source, columns)
    docs, config = _shape(rows, source)
    counts = _sizes(len(docs))
    config = {"task": name, **config}
    task = _task(name, target, config, counts)
    drawn = splits.draw(task, docs)
    splits.check(task, drawn)
    chance, note = _guessing(task, drawn["test"])
    text = _yaml(config, counts, chance, licence.strip() or "not stated", source.name)

    def write(workspace: Path) -> None:
        (workspace / f"{name}.yaml").write_text(text, encoding="utf-8")
        prepare = PREPARE.format(name=name, rows=len(docs), data=DATA)
        (workspace / "prepare.py").write_text(prepare, encoding="utf-8")
        (workspace / DATA).write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")

    paths.publish_dir(write, target)
    return prepare_task(name), note


# -- rows -------------------------------------------------------------------------------------------------------------


def _read(source: Path, columns: Columns) -> list[tuple[int, dict[str, Any]]]:
    """(line, question, answer and choices) of every row; no question twice."""
    found: list[tuple[int, dict[str, Any]]] = []
    lines: dict[str, int] = {}
    for number, row in _objects(source):
        where = f"{source}:{number}"
        plain = {"question": _text(row, columns.question, "--question", where)}
        if columns.choices in row:
            plain |= {"choices": _choices(row[columns.choices], columns.choices, where)}
        elif found and "choices" in found[0][1]:
            raise _missing(row, columns.choices, "--choices", where)
        plain["answer"] = _answer(row, columns.answer, plain.get("choices"), where)
        if found and ("choices" in plain) != ("choices" in found[0][1]):
            what = f"this row has a column '{columns.choices}', and line {found[0][0]} has none"
            raise InputError(what, where=where, remedy="give choices in every row or in none")
        key = " ".join(plain["question"].split())
        if key in lines:
            what = f"the question of line {lines[key]} again"
            raise InputError(what, where=where, remedy="a question may stand in one row only: remove one of them")
        lines[key] = number
        found.append((number, plain))
    if len(found) < LEAST_ROWS:
        what = f"{len(found)} rows are too few to be trained on, chosen by and tested on"
        raise InputError(what, where=str(source), remedy=f"give at least {LEAST_ROWS}")
    return found


def _objects(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = source.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise InputError(f"can't be read: {reason}", where=str(source), remedy="give a JSONL file") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"not JSON: {error}", where=f"{source}:{number}", remedy="write one JSON object a line"
            ) from error
        if not isinstance(row, dict):
            what = f"a {type(row).__name__}, not an object with columns"
            raise InputError(what, where=f"{source}:{number}", remedy='write {"question": ..., "answer": ...}')
        yield number, row


def _missing(row: Mapping[str, Any], column: str, option: str, where: str) -> InputError:
    near = difflib.get_close_matches(column, row, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    what = f"there is no column '{column}'; the row has {', '.join(row) or 'none'}"
    return InputError(what, where=where, remedy=f"{hint}name the column with {option}")


def _text(row: Mapping[str, Any], column: str, option: str, where: str) -> str:
    if column not in row:
        raise _missing(row, column, option, where)
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise InputError(f"'{column}' is {value!r}, not a text", where=where, remedy="give a text that is not empty")
    return str(value).strip()


def _choices(value: Any, column: str, where: str) -> list[str]:
    texts = [str(choice).strip() for choice in value] if isinstance(value, list) else []
    if len(texts) < 2 or len(set(texts)) < len(texts) or not all(texts):
        what = f"'{column}' is {value!r}"
        raise InputError(what, where=where, remedy="give a list of at least two different texts")
    return texts


def _answer(row: Mapping[str, Any], column: str, choices: list[str] | None, where: str) -> str:
    """The answer as text: itself, or the choice that it numbers (from 0)."""
    text = _text(row, column, "--answer", where)
    if choices is None:
        if "\n" in text:
            raise InputError("the answer has more than one line", where=where, remedy="give an answer of one line")
        return text
    value = row[column]
    if text in choices:
        return text
    if isinstance(value, int) and 0 <= value < len(choices):
        return choices[value]
    what = f"the answer {value!r} is none of the choices {choices}"
    raise InputError(what, where=where, remedy=f"give one of them, or its number from 0 to {len(choices) - 1}")


# -- what it becomes --------------------------------------------------------------------------------------------------


def _shape(rows: list[tuple[int, dict[str, Any]]], source: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The documents, and the keys of the YAML that depend on what the answers are."""
    if "choices" in rows[0][1]:
        docs = [{"question": row["question"], "choices": row["choices"], "label": row["choices"].index(row["answer"])}
                for _, row in rows]  # fmt: skip
        return docs, _multiple_choice("choices")
    answers = Counter(row["answer"] for _, row in rows)
    if len(answers) == 1:
        what = f"every answer is {next(iter(answers))!r}, so there is nothing to learn"
        raise InputError(what, where=str(source), remedy="name the column of the answers with --answer")
    if len(answers) <= MOST_CLASSES and min(answers.values()) >= LEAST_OF_CLASS:
        classes = sorted(answers)
        docs = [{"question": row["question"], "label": classes.index(row["answer"])} for _, row in rows]
        return docs, _multiple_choice(classes)
    for number, row in rows:
        if len(row["answer"]) > LONGEST_ANSWER:
            what = f"the answer has {len(row['answer'])} characters; generated ones have at most {LONGEST_ANSWER}"
            raise InputError(what, where=f"{source}:{number}", remedy="shorten it, or give choices")
    return [row for _, row in rows], _generated(max(map(len, answers)))


def _multiple_choice(choices: str | list[str]) -> dict[str, Any]:
    return {"output_type": "multiple_choice", "doc_to_choice": choices, "doc_to_target": "label", "metric": "acc"}


def _generated(longest: int) -> dict[str, Any]:
    settings = {"until": ["\n"], "max_gen_toks": min(32, max(8, longest)), "do_sample": False}
    # a trained answer begins with the target delimiter's space
    stripped = [{"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}]
    return {"output_type": "generate_until", "doc_to_target": "answer", "generation_kwargs": settings,
            "filter_list": stripped, "metric": "exact_match"}  # fmt: skip


def _sizes(rows: int) -> dict[str, int]:
    """A quarter for testing and an eighth for validation, but no more than the project's own tasks have."""
    test, validation = min(500, rows // 4), min(200, rows // 8)
    return {"train": rows - test - validation, "validation": validation, "test": test}


def _task(name: str, target: Path, config: dict[str, Any], counts: dict[str, int]) -> Task:
    """As :func:`harness.data.tasks.load_task` will read it, to draw the splits before there is a file."""
    return Task(
        name=name, yaml=target / f"{name}.yaml", config={**config, "doc_to_text": PROMPT}, kind=config["output_type"],
        version=1, licence="", source="", chance=None, splits=counts, role="stream", split_seed=SEED,
    )  # fmt: skip


def _guessing(task: Task, docs: list[dict[str, Any]]) -> tuple[float, str]:
    """The score of guessing, and a line about the answers of the test items."""
    if task.kind != "multiple_choice":
        return 0.0, "free text, which has to match exactly"
    options = [splits.choices(task, doc) for doc in docs]
    chance = round(sum(1 / len(choices) for choices in options) / len(docs), 4)
    right = Counter(choices[doc["label"]] for choices, doc in zip(options, docs, strict=True))
    answer, often = right.most_common(1)[0]
    return chance, f"multiple choice; always answering {answer!r} scores {often / len(docs):.2f}, guessing {chance}"


def _yaml(config: Mapping[str, Any], counts: Mapping[str, int], chance: float, licence: str, source: str) -> str:
    """The file, in the order of tasks/README.md."""
    keys: dict[str, Any] = {
        "task": config["task"], "output_type": config["output_type"], "training_split": "train",
        "validation_split": "validation", "test_split": "test", "doc_to_text": PROMPT,
    }  # fmt: skip
    keys |= {key: value for key, value in config.items() if key not in keys and key != "metric"}
    keys["metric_list"] = [{"metric": config["metric"], "aggregation": "mean", "higher_is_better": True}]
    meta = {
        "version": 1, "role": "stream", "licence": licence, "source": f"own rows ({source})", "chance": chance,
        "splits": dict(counts), "split_seed": SEED,
    }  # fmt: skip
    return yaml.dump(
        keys | {"metadata": meta}, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True,
        width=10**6,
    )  # fmt: skip


class _Dumper(yaml.SafeDumper):
    """Texts with a line break in double quotes, as lm-eval's guide has them."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None),
)
