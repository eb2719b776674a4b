"""``lorabench new study``: a study with comments, every key of which stands there with its default, to be changed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.cli.preflight import check_methods, checked_study
from harness.data import paths
from harness.errors import InputError
from harness.method.registry import methods
from harness.study.config import check_name
from harness.study.schema import Schema, study_schema

#: What a new study is about, if nobody says otherwise: that of the study ``quick``, with a few more examples.
MODEL = "smollm2-135m-instruct"
TASKS = ("naughty_strings", "language_id", "bbc_topics")
PROBES = ("social_iqa", "plain_text")
METHODS = ("frozen", "lora", "stable_lora")
BUDGET = {"training": {"examples": 64, "batch": 8}, "scoring": {"items": 64, "curve": [16]}}
#: Keys that come first, in this order; the others follow with their defaults.
FIRST = ("title", "model", "seeds", "streams", "probes", "methods", "training", "scoring")
_WIDTH = 34  # where comments begin
_HINT = "# yaml-language-server: $schema="


def new_study(
    name: str, *, model: str = MODEL, tasks: Sequence[str] = TASKS, probes: Sequence[str], arms: Sequence[str] = METHODS
) -> Path:
    """Write ``NAME.yaml`` into the current folder; returns the file.

    Raises InputError for a file that is there, and for a name, model, task or method that a study can't have: then no
    file is left.
    """
    name = check_name(name.removesuffix(".yaml"), "study", "NAME")
    file = Path(f"{name}.yaml")
    given = {
        "title": f"{name}: which question does it answer?",
        "model": model,
        "seeds": [0, 1, 2],
        "streams": _orders(tasks),
        "probes": list(probes),
        "methods": dict.fromkeys(arms),
        **BUDGET,
    }
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(study_text(given, file))
    except FileExistsError as error:
        raise InputError("there is such a file already", where=str(file), remedy="choose another name") from error
    try:
        check_methods(*checked_study(str(file)))
    except BaseException:
        file.unlink()
        raise
    return file


def _orders(tasks: Sequence[str]) -> dict[str, list[str]]:
    """Each task at another position: an order that turns by one; of one task, one order."""
    turned = [*tasks[-1:], *tasks[:-1]]
    return {"order1": list(tasks)} | ({"order2": turned} if len(tasks) > 1 else {})


def study_text(given: Mapping[str, Any], file: Path) -> str:
    """The file of a study with these values, and every other key as a comment."""
    schema = study_schema({})
    fields = {key: schema["properties"][key] for key in (*FIRST, *schema["properties"])}
    head = [
        _hint(file),
        f"# Plan it with `lorabench plan {file}`, run it with `lorabench run {file}`.",
        "# A line that begins with # is a default: take the # away to change it.",
    ]
    return "".join(f"{line}\n" for line in [*head, *_block(fields, given, schema["$defs"], "")])


def _hint(file: Path) -> str:
    """Where an editor finds the schema: in the clone that the file is in, or how to get it."""
    committed = paths.studies_dir().parent.parent / "docs" / "study.schema.json"
    root = committed.parent.parent
    if committed.is_file() and root in file.resolve().parents:
        return f"{_HINT}{os.path.relpath(committed, file.resolve().parent)}"
    return "# For an editor: `lorabench studies --schema > study.schema.json`, and in the first line here " + _HINT[2:]


def _block(fields: Mapping[str, Schema], given: Mapping[str, Any], blocks: Schema, indent: str) -> Iterator[str]:
    """The lines of the keys of a block; of what is not given the defaults, as comments."""
    for key, field in fields.items():
        about = field.get("description", "")
        if block := field.get("$ref", "").rpartition("/")[2]:
            mark = "" if key in given else "# "
            yield _line(f"{indent}{mark}{key}:", about)
            yield from _block(blocks[block]["properties"], given.get(key, {}), blocks, f"{indent}{mark}  ")
        elif key == "methods":
            yield _line(f"{indent}{key}:", about)
            for arm in given[key]:
                yield _line(f"{indent}  {arm}:", getattr(methods().get(arm), "summary", ""))
        elif key == "streams":
            yield _line(f"{indent}{key}:", about)
            yield from (f"{indent}  {order}: {_value(stream)}" for order, stream in given[key].items())
        elif key in given:
            yield _line(f"{indent}{key}: {_value(given[key])}", about)
        else:
            mark = "" if indent.startswith("#") else "# "
            yield _line(f"{indent}{mark}{key}: {_value(field.get('default'))}", about)


def _line(text: str, about: str) -> str:
    return f"{text:<{_WIDTH}}  # {about}" if about else text


def _value(value: Any) -> str:
    """As YAML has it on a line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    return text.removesuffix("...\n").rstrip("\n")
