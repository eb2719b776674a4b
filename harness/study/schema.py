"""The JSON schema of a study's file, for editors and for the reference in docs/study.md, made of the typed settings.

    # yaml-language-server: $schema=study.schema.json

It says what each key may be; what several keys say together (a batch that divides the examples, names of tasks) is
checked where a study is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.study.config import AdapterSettings, Study, TrainingSettings
from harness.study.methods import MethodLike
from harness.study.overrides import TRAINING_KEYS

DRAFT = "http://json-schema.org/draft-07/schema#"
#: Keys of a study that its file doesn't have: the name is the file's.
NOT_IN_FILE = ("name",)

Schema = dict[str, Any]


def study_schema(methods: Mapping[str, MethodLike]) -> Schema:
    """The schema of a file that may name these methods; an arm of another one (a plug-in's) may have any settings."""
    schema = _untitled(Study.model_json_schema())
    for name in NOT_IN_FILE:
        del schema["properties"][name]
    schema["$defs"] |= _own()
    for name, method in methods.items():
        schema["$defs"][f"method {name}"] = _arm(method)
    schema["properties"]["methods"] |= {
        "additionalProperties": {"type": ["object", "null"]},
        "patternProperties": {f"^{name}(@.+)?$": {"$ref": f"#/$defs/method {name}"} for name in methods},
    }
    return {"$schema": DRAFT, "title": "A study of lorabench", **schema}


def method_settings(method: MethodLike) -> Mapping[str, Schema]:
    """The settings of a method by name, each as its schema."""
    return _untitled(method.settings.model_json_schema()).get("properties", {})


def _own() -> dict[str, Schema]:
    """What an arm may have of its own instead of the study's, by its key."""
    shape = _untitled(AdapterSettings.model_json_schema())["properties"]
    training = _untitled(TrainingSettings.model_json_schema())["properties"]
    adapter = {
        "type": "object", "properties": {key: _without_default(value) for key, value in shape.items()},
        "additionalProperties": False, "minProperties": 1,
        "description": "this arm's own adapter: some of rank, alpha, targets",
    }  # fmt: skip
    own = {"adapter": adapter} | {
        key: _or_grid(_without_default(training[key])) for key in TRAINING_KEYS if key != "adapter"
    }
    return {f"own {key}": own[key] for key in TRAINING_KEYS}


def _arm(method: MethodLike) -> Schema:
    """An entry of ``methods``: settings, each a value or a grid of values, and what an arm may have of its own."""
    settings = {name: _or_grid(setting) for name, setting in method_settings(method).items()}
    return {
        "type": ["object", "null"],
        "properties": settings | {key: {"$ref": f"#/$defs/own {key}"} for key in TRAINING_KEYS},
        "additionalProperties": False,
    }


def _or_grid(setting: Schema) -> Schema:
    """A value, or a list of them."""
    about = {key: setting[key] for key in ("description", "default") if key in setting}
    value = {key: part for key, part in setting.items() if key not in about}
    return {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}], **about}


def _without_default(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key != "default"}


def _untitled(schema: Any) -> Any:
    """Without the titles that pydantic makes of names: they say nothing that the name doesn't."""
    if isinstance(schema, list):
        return [_untitled(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _untitled(part) for key, part in schema.items() if not (key == "title" and isinstance(part, str))}
