"""The folder that ``lorabench new task`` writes: a YAML, ``prepare.py`` and the rows of a JSONL file.

A row is a question and its answer.  With a column of choices, or where few answers repeat, it becomes multiple choice;
else the answer is generated and has to match.  Whatever is odd is refused with its line, before anything is written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.data import files
from harness.data.new_task import rows
from harness.data.new_task.rows import Columns, FileRow
from harness.data.tasks.own import rendering, splits
from harness.data.tasks.own.folders import read_task
from harness.data.tasks.prepare import prepare_task
from harness.data.tasks.spec import PreparedTask, Task
from harness.errors import InputError, LorabenchError, clipped

LEAST_ROWS = 40
#: So few different answers, each so often, are the classes of a classification.
MOST_CLASSES, LEAST_OF_CLASS = 10, 5
LONGEST_ANSWER = 96  # characters of a generated answer: some 32 tokens
DATA = "data.jsonl"
PROMPT = "{{question}}\nAnswer:"
SEED = 20260

PREPARE = '''"""{name}: {rows} rows of a JSONL file."""

import json


def rows(source):
    # Not splitlines: a text may hold other characters that end a line, as JSON allows.
    yield from (json.loads(line) for line in source.file("{data}").split("\\n") if line)
'''


def new_task(name: str, source: Path, folder: Path, columns: Columns, licence: str) -> tuple[PreparedTask, str]:
    """Write ``folder/name`` and build its splits; returns them with a line about what it has become.

    Raises InputError as ``file:line`` for rows that are odd; ``name`` has been checked.  The folder appears whole, with
    its splits built, or not at all.
    """
    target = folder / name
    taken = InputError("there is something of this name already", where=str(target), remedy="choose another name")
    if target.exists() or target.is_symlink():
        raise taken
    docs, config, unused = _documents(source, columns)
    counts = _sizes(len(docs))
    config = {"task": name, **config}
    task = _task(name, target, config, counts)
    drawn = splits.draw(task, docs)
    splits.check(task, drawn)
    chance, note = _guessing(task, drawn["test"])
    text = _yaml(config, counts, chance, _licence(licence), source.name)

    def write(workspace: Path) -> None:
        (workspace / f"{name}.yaml").write_text(text, encoding="utf-8")
        prepare = PREPARE.format(name=name, rows=len(docs), data=DATA)
        (workspace / "prepare.py").write_text(prepare, encoding="utf-8")
        (workspace / DATA).write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")
        splits.build(read_task(name, workspace / f"{name}.yaml"))

    try:
        files.publish_dir(write, target, new=True)
    except OSError as error:
        if target.exists():  # made by another process meanwhile
            raise taken from error
        what = f"cannot be written: {error.strerror or error}"
        raise LorabenchError(what, where=str(target), remedy="choose a folder that you may write to") from error
    left = clipped(", ".join(unused), 300).encode("utf-8", "replace").decode()
    return prepare_task(name), f"{note}\ncolumns not used: {left}" if unused else note


# -- what it becomes --------------------------------------------------------------------------------------------------


def _documents(source: Path, columns: Columns) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """The documents, the keys of the YAML that depend on what the answers are, and the columns that are not used."""
    parsed, unused = rows.read(source, columns)
    if len(parsed) < LEAST_ROWS:
        what = f"{len(parsed)} rows are too few to be trained on, chosen by and tested on"
        raise InputError(what, where=str(source), remedy=f"give at least {LEAST_ROWS}")
    if parsed[0].choices is not None:
        places = rows.labels(parsed, source, columns.answers)
        docs = [{"question": row.question, "choices": list(row.choices or ()), "label": label}
                for row, label in zip(parsed, places, strict=True)]  # fmt: skip
        return docs, _multiple_choice("choices"), unused
    if columns.answers not in (None, "text"):
        what = f"{columns.answers} means places of choices, and the rows have no column '{columns.choices}'"
        raise InputError(what, where="--answers", remedy="leave it out, or name the column with --choices")
    classes = _classes(parsed, source)
    if classes is not None:
        docs = [{"question": row.question, "label": classes.index(row.answer)} for row in parsed]
        return docs, _multiple_choice(classes), unused
    for row in parsed:
        if len(row.answer) > LONGEST_ANSWER:
            what = f"the answer has {len(row.answer)} characters; generated ones have at most {LONGEST_ANSWER}"
            raise InputError(what, where=f"{source}:{row.line}", remedy="shorten it, or give choices")
    docs = [{"question": row.question, "answer": row.answer} for row in parsed]
    return docs, _generated(max(len(row.answer) for row in parsed)), unused


def _classes(parsed: Sequence[FileRow], source: Path) -> list[str] | None:
    """The answers, where so few come so often that they are classes.

    Raises InputError where there is only one, or where two are one to a person: a slip of the pen is no class.
    """
    spelt: dict[object, dict[str, int]] = {}  # what a person would hold for one answer -> its spellings, first lines
    for row in parsed:
        spelt.setdefault(rows.alike(row.answer), {}).setdefault(row.answer, row.line)
    often = Counter(rows.alike(row.answer) for row in parsed)
    if len(often) > MOST_CLASSES or (len(often) > 1 and min(often.values()) < LEAST_OF_CLASS):
        return None
    for ways in spelt.values():
        if len(ways) > 1:
            (one, first), (other, second), *_ = ways.items()
            what = f"the answers {clipped(repr(one), 100)} (line {first}) and {clipped(repr(other), 100)} look alike"
            remedy = "spell them alike, or give the choices in every row: those are taken as they are"
            raise InputError(what, where=f"{source}:{second}", remedy=remedy)
    if len(often) == 1:
        what = f"every answer is {clipped(repr(parsed[0].answer), 100)}, so there is nothing to learn"
        raise InputError(what, where=str(source), remedy="name the column of the answers with --answer")
    return sorted({row.answer for row in parsed})


def _multiple_choice(choices: str | list[str]) -> dict[str, Any]:
    return {"output_type": "multiple_choice", "doc_to_choice": choices, "doc_to_target": "label", "metric": "acc"}


def _generated(longest: int) -> dict[str, Any]:
    settings = {"until": ["\n"], "max_gen_toks": min(32, max(8, longest)), "do_sample": False}
    # a trained answer begins with the target delimiter's space
    stripped = [{"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}]
    return {"output_type": "generate_until", "doc_to_target": "answer", "generation_kwargs": settings,
            "filter_list": stripped, "metric": "exact_match"}  # fmt: skip


def _sizes(rows: int) -> dict[str, int]:
    """A quarter for testing and an eighth for validation, but no more than the project's tasks have."""
    test, validation = min(500, rows // 4), min(200, rows // 8)
    return {"train": rows - test - validation, "validation": validation, "test": test}


def _task(name: str, target: Path, config: dict[str, Any], counts: dict[str, int]) -> Task:
    """As :func:`read_task` will read it, to draw the splits before there is a file."""
    return Task(
        name=name, yaml=target / f"{name}.yaml", config={**config, "doc_to_text": PROMPT}, kind=config["output_type"],
        version=1, licence="", source="", chance=None, splits=counts, role="stream", split_seed=SEED,
    )  # fmt: skip


def _guessing(task: Task, docs: list[dict[str, Any]]) -> tuple[float, str]:
    """The score of guessing, and a line about the answers of the test items."""
    if task.kind != "multiple_choice":
        return 0.0, "free text, which has to match exactly"
    options = [rendering.choices(task, doc) for doc in docs]
    chance = round(sum(1 / len(choices) for choices in options) / len(docs), 4)
    right = Counter(choices[doc["label"]] for choices, doc in zip(options, docs, strict=True))
    answer, often = right.most_common(1)[0]
    always = f"always answering {clipped(repr(answer), 100)} scores {often / len(docs):.2f}"
    return chance, f"multiple choice; {always}, guessing {chance}"


def _licence(said: str) -> str:
    try:
        said.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError("it is not UTF-8", where="--licence", remedy="write it in UTF-8") from error
    return said.strip() or "not stated"


def _yaml(config: Mapping[str, Any], counts: Mapping[str, int], chance: float, licence: str, source: str) -> str:
    """The file, in the order of tasks/README.md."""
    keys: dict[str, Any] = {
        "task": config["task"], "output_type": config["output_type"], "training_split": "train",
        "validation_split": "validation", "test_split": "test", "doc_to_text": PROMPT,
    }  # fmt: skip
    keys |= {key: value for key, value in config.items() if key not in keys and key != "metric"}
    keys["metric_list"] = [{"metric": config["metric"], "aggregation": "mean", "higher_is_better": True}]
    file = source.encode("utf-8", "replace").decode()  # a file's name may be any bytes
    meta = {
        "version": 1, "role": "stream", "licence": licence, "source": f"own rows ({file})", "chance": chance,
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
