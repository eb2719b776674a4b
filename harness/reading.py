"""JSON and YAML that others wrote: read strictly, and every problem said as ``file:line: what``.

Used wherever a file may have been made, edited or damaged by somebody else.  Neither format is read by anything that
could run code.  What plain readers let pass is refused: a YAML key that stands twice (the last one would win), nesting
that exhausts the interpreter's stack, YAML aliases that unfold into more than a file of this size may hold.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from harness.errors import InputError

#: Mappings and lists within each other: no file of ours or of transformers' comes near.
DEEPEST = 100
#: Uses of aliases in one YAML file; each may stand for a whole block.
MOST_ALIASES = 100
#: Values of one YAML file, those that aliases stand for counted each time: ten levels of ten aliases are 10 ** 10.
MOST_VALUES = 250_000


def read_json(path: Path, *, remedy: str = "restore it, or write it again", where: str | None = None) -> Any:
    """The value in a JSON file in UTF-8, with or without a byte order mark.  Raises InputError."""
    where = where or str(path)
    return parse_json(read_text(path, where=where, remedy=remedy), where=where, remedy=remedy)


def parse_json(text: str, *, where: str, remedy: str) -> Any:
    """The value of a JSON text.  Raises InputError as ``where:line``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", where=f"{where}:{error.lineno}", remedy=remedy) from error
    except RecursionError as error:
        raise InputError("not JSON of ours: it is nested too deeply to be read", where=where, remedy=remedy) from error
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"not JSON that can be read: {error}", where=where, remedy=remedy) from error


def read_yaml(path: Path, *, remedy: str = "correct the file", where: str | None = None) -> Any:
    """The value in a YAML file.  Raises InputError as ``file:line``, also for a key that stands twice."""
    where = where or str(path)
    return parse_yaml(read_text(path, where=where, remedy=remedy), where=where, remedy=remedy)


def parse_yaml(text: str, *, where: str, remedy: str) -> Any:
    """The value of a YAML text.  Raises InputError as ``where:line``."""
    try:
        return yaml.load(text, Loader=_Strict)  # a SafeLoader
    except _RefusedError as error:
        raise InputError(error.what, where=f"{where}:{error.line}", remedy=error.remedy or remedy) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(part for part in (error.context, error.problem) if part)
        place = f"{where}:{mark.line + 1}" if mark else where
        raise InputError(f"not valid YAML: {said}", where=place, remedy=remedy) from error
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML: {error}", where=where, remedy=remedy) from error
    except RecursionError as error:
        raise InputError("it is nested too deeply to be read", where=where, remedy=remedy) from error
    except ValueError as error:  # a date such as 2026-13-45, a number of thousands of digits
        raise InputError(f"a value can't be read: {error}", where=where, remedy=remedy) from error


def read_text(path: Path, *, where: str, remedy: str) -> str:
    """A file's text in UTF-8, without its byte order mark.  Raises InputError, which names the file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror or error}", where=where, remedy=remedy) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"it is not UTF-8: {error.reason} at byte {error.start}", where=where, remedy=remedy
        ) from error


class _RefusedError(Exception):
    def __init__(self, what: str, mark: yaml.Mark | None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy
        self.line = mark.line + 1 if mark else 1


class _Strict(yaml.SafeLoader):
    """A SafeLoader that refuses a key that stands twice, deep nesting and floods of aliases."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._aliases = self._values = 0
        self._sizes: dict[str, int] = {}  # of finished blocks with an anchor

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        before = self._values
        self._values += self._alias(event) if isinstance(event, yaml.AliasEvent) else 1
        if self._values > MOST_VALUES:
            raise _RefusedError(f"it holds more than {MOST_VALUES:,} values", event.start_mark)
        self._depth += 1
        if self._depth > DEEPEST:
            raise _RefusedError("it is nested too deeply to be read", event.start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1
            if not isinstance(event, yaml.AliasEvent) and event.anchor is not None:
                self._sizes[event.anchor] = self._values - before

    def _alias(self, event: yaml.AliasEvent) -> int:
        """How many values an alias stands for; one within its own block would have no end."""
        self._aliases += 1
        if self._aliases > MOST_ALIASES:
            raise _RefusedError(f"more than {MOST_ALIASES} aliases (*name)", event.start_mark)
        if event.anchor in self.anchors and event.anchor not in self._sizes:
            raise _RefusedError(f"the alias '*{event.anchor}' stands within what it names", event.start_mark)
        return self._sizes.get(event.anchor, 1)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[Hashable, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if not isinstance(name, Hashable):
                raise _RefusedError("a key must be a text or a number", key.start_mark)
            if name in first:
                raise _RefusedError(
                    f"the key '{name}' stands here twice; the first is in line {first[name]}",
                    key.start_mark,
                    "remove or rename one of them: only one could count",
                )
            first[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep=deep)
