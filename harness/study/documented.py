"""Tables of docs/study.md and docs/methods.md: keys of a study and settings of methods, from their schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.study.methods import MethodLike
from harness.study.schema import Schema, method_settings, study_schema

#: For which a method's grid is listed: steps of a task of 512 examples, eight a step.
STEPS = 64
_ENDS = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
    "exclusiveMaximum": "below {}",
}
_NAMES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true`, `false`",
    "null": "`null`",
    "object": "mapping",
}


def study_tables() -> str:
    """A table of the keys at the top of a study's file, then one a block."""
    schema = study_schema({})
    top, blocks = {}, {}
    for name, field in schema["properties"].items():
        block = field.get("$ref", "").rpartition("/")[2]
        if block:
            blocks[name] = (schema["$defs"][block]["properties"], field["description"])
        top[name] = {"type": f"block, [below](#{name})", **field, "default": None} if block else field
    required = schema["required"]
    text = f"\n## The keys\n\n{_keys(top, required)}"
    for name, (fields, meaning) in blocks.items():
        text += f"\n### {name}\n\n{meaning[:1].upper()}{meaning[1:]}.\n\n{_keys(fields, ())}"
    return f"{text}\n"


def methods_table(methods: Mapping[str, MethodLike]) -> str:
    """A line a method."""
    lines = ["| method | what it is | source |", "|---|---|---|"]
    for name, method in methods.items():
        about: Any = method  # which has words for people besides what a plan asks
        control = ", a control" if method.control and "control" not in about.summary else ""
        lines.append(f"| `{name}` | {about.summary}{control} | {about.source} |")
    return _joined(lines)


def settings_table(methods: Mapping[str, MethodLike]) -> str:
    """A line a setting of a method, with what ``lorabench tune`` tries of it."""
    lines = ["| method | setting | default | may be | tuned over | what it is |", "|---|---|---|---|---|---|"]
    for name, method in methods.items():
        about: Any = method.settings
        grid = about.grid(STEPS)
        for setting, field in method_settings(method).items():
            tried = ", ".join(map(_shown, grid.get(setting, ())))
            lines.append(
                f"| `{name}` | `{setting}` | {_shown(field.get('default'))} | {_kind(field)} | {tried} "
                f"| {_cell(field.get('description', ''))} |"
            )
    return _joined(lines)


def _keys(fields: Mapping[str, Schema], required: Sequence[str]) -> str:
    lines = ["| key | default | may be | what it is |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = "**required**" if name in required else _shown(field.get("default"))
        if str(field.get("type", "")).startswith("block"):
            default = ""
        lines.append(f"| `{name}` | {default} | {_kind(field)} | {_cell(field['description'])} |")
    return _joined(lines)


def _kind(field: Schema) -> str:
    """What may stand there, in words."""
    if "anyOf" in field:
        return " or ".join(map(_kind, field["anyOf"]))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{choice}`" for choice in field.get("enum", [field.get("const")]))
    kind = field.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(_NAMES[name] for name in kind)
    if kind == "array":
        most = f", at most {field['maxItems']}" if "maxItems" in field else ""
        return f"list: {_many(field.get('items', {}))}{most}"
    if kind == "object":
        named = field.get("additionalProperties")
        return f"by name: {_kind(named)}" if isinstance(named, dict) and "type" in named else "mapping"
    ends = " ".join(text.format(_end(field[key])) for key, text in _ENDS.items() if key in field)
    return f"{_NAMES.get(kind, kind)}{f' {ends}' if ends else ''}"


def _many(items: Schema) -> str:
    return _kind(items) if items else "any values"


def _end(value: float) -> str:
    return f"{value:,.10g}" if abs(value) < 1e12 else f"2^{int(value).bit_length()} − 1"


def _shown(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, float):
        return f"`{value:g}`"
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text.strip(chr(34)) or chr(34) * 2}`" if isinstance(value, str) else f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "&#124;")


def _joined(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
