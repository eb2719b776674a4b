"""The schema of a study's file says what the typed settings take: no more, no less."""

from __future__ import annotations

import copy

import pytest
import yaml
from jsonschema import Draft7Validator
from places import STUDIES

from harness.method.registry import methods
from harness.study.config import Study
from harness.study.schema import NOT_IN_FILE, study_schema

SCHEMA = study_schema(methods())
CHECK = Draft7Validator(SCHEMA)
PLAIN = {
    "model": "tiny-random-llama",
    "seeds": [0],
    "streams": {"one": ["toy_recall"]},
    "methods": {"lora": None},
}


def faults(study: dict) -> list[str]:
    return [error.json_path for error in CHECK.iter_errors(study)]


def changed(path: str, value: object) -> dict:
    study = copy.deepcopy(PLAIN)
    *blocks, key = path.split(".")
    place = study
    for block in blocks:
        place = place.setdefault(block, {})
    place[key] = value
    return study


def numbers() -> list[tuple[str, float, float]]:
    """Every key with numbers of two ends: its path, least, most."""
    found = []
    for name, field in SCHEMA["properties"].items():
        block = SCHEMA["$defs"][field["$ref"].rpartition("/")[2]]["properties"] if "$ref" in field else {"": field}
        for key, value in block.items():
            parts = [value, *value.get("anyOf", ())]
            ends = [(part["minimum"], part["maximum"]) for part in parts if "maximum" in part]
            found += [(f"{name}.{key}".rstrip("."), *end) for end in ends]
    return found


def test_the_schema_is_one():
    Draft7Validator.check_schema(SCHEMA)
    assert faults(PLAIN) == []


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_that_ships_fits(path):
    text = path.read_text(encoding="utf-8")
    assert faults(yaml.safe_load(text)) == []
    hint = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / hint).resolve() == STUDIES.parents[1] / "docs" / "study.schema.json"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("lr", 1e-3),
        ("name", "x"),
        ("dtype", "float16"),
        ("seeds", []),
        ("training.epochs", 3),
        ("training.examples", "8"),
        ("scoring.num_fewshot", {"toy_recall": -1}),
        ("pack", "all"),
        ("methods.lora", {"lr": 1e-3}),
        ("methods.lora", {"learning_rate": 0}),
        ("methods.lora", {"learning_rate": []}),
        ("methods.stable_lora@x", {"shrink": [0.1, 1]}),
        ("methods.lora", {"adapter": {"r": 2}}),
        ("methods.lora", {"between_tasks": "never"}),
    ],
)
def test_what_no_study_may_say_is_a_fault(path, value):
    assert faults(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("methods.lora@hot", {"learning_rate": [0.001, 0.002]}),
        ("methods.lora@rank2", {"adapter": {"rank": 2}, "between_tasks": "reinit", "examples": [16, 64]}),
        ("methods.my_own", {"anything": 1}),
        ("scoring.num_fewshot", {"toy_recall": 5}),
        ("scoring.items", None),
        ("pack", "auto"),
        ("resources.num_gpus", "plan"),
        ("tuning.grids", {"lora": {"learning_rate": [0.1]}}),
    ],
)
def test_what_a_study_may_say_is_none(path, value):
    assert faults(changed(path, value)) == []


@pytest.mark.parametrize(("path", "least", "most"), numbers())
def test_ranges_are_those_that_are_checked(path, least, most):
    whole = isinstance(least, int) and isinstance(most, int)
    step = 1 if whole else 1e-6
    if path in ("training.examples", "training.batch"):  # of which one is a multiple of the other
        return
    Study.model_validate(changed(path, most))
    for beyond in (least - step, most + step):
        assert faults(changed(path, beyond))
        with pytest.raises(ValueError, match="must be a"):
            Study.model_validate(changed(path, beyond))


def test_every_key_has_its_words():
    fields = SCHEMA["properties"]
    assert set(fields) == set(Study.model_fields) - set(NOT_IN_FILE)
    names = [field["$ref"].rpartition("/")[2] for field in fields.values() if "$ref" in field]
    blocks = [SCHEMA["$defs"][name]["properties"] for name in names]
    assert len(blocks) == 5
    assert [key for block in (fields, *blocks) for key, field in block.items() if not field.get("description")] == []
