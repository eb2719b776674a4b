"""The names of lm-eval's tasks, groups and tags: an index in the cache, one for each version of lm-eval.

Reading lm-eval's 14,000 YAML files takes some 10 s, so the index is made only where a name is asked for that the
project does not have, and once.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.data import files, paths
from harness.data.tasks.lm_eval import yaml_files
from harness.errors import InputError
from harness.reading import read_json

#: What is kept of a name: its kind (task, group, tag, python), the YAML's path below ``lm_eval/tasks``, output type,
#: data set, whether there are rows to train on, and the members of a group or tag.
Entry = dict[str, Any]
FIELDS = {"kind", "yaml", "output_type", "dataset_path", "training_split", "members"}


def index_file() -> Path:
    """Where the index of the installed lm-eval is kept."""
    return paths.cache_dir() / "lm-eval" / f"index-{version('lm_eval')}.json"


def index() -> Mapping[str, Entry]:
    """Every name that lm-eval knows; a damaged index is made anew."""
    try:
        return _read(index_file())
    except InputError:
        return write_index()


def write_index(folders: Iterable[str] = (".",)) -> Mapping[str, Entry]:
    """Read the YAML files below these folders of ``lm_eval/tasks`` and keep what they say in the cache."""
    from lm_eval.tasks._index import TaskIndex

    root = yaml_files.tasks_root()
    names = TaskIndex.build([root / folder for folder in folders])
    entries = {name: _entry(names[name], root) for name in sorted(names)}
    text = json.dumps(entries, indent=0)
    if index_file().is_dir():
        files.discard(index_file())
    file = files.publish_file(lambda temporary: temporary.write_text(text, encoding="utf-8"), index_file())
    _read.cache_clear()
    return _read(file)


def tasks_of(name: str) -> list[str]:
    """The tasks of a group or tag, those of the groups in it too."""
    entries = index()

    def walk(member: str, above: frozenset[str]) -> Iterator[str]:
        members = entries.get(member, {}).get("members") or []
        if not members:
            yield member
        for below in members:
            if below not in above:  # a group may hold a task, or a tag, of the same name
                yield from walk(below, above | {below})

    return list(dict.fromkeys(walk(name, frozenset([name]))))


@functools.lru_cache(maxsize=1)
def _read(file: Path) -> Mapping[str, Entry]:
    """Raises InputError for a file that is no index as :func:`write_index` writes it."""
    entries = read_json(file)
    if isinstance(entries, dict) and entries and all(map(_is_entry, entries.values())):
        return entries
    raise InputError("not an index", where=str(file), remedy="remove it: it is made anew")


def _is_entry(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == FIELDS and isinstance(value["members"], list)


def _entry(named: Any, root: Path) -> Entry:
    """``named`` is an entry of lm-eval's index."""
    kind = {"TASK": "task", "PY_TASK": "python", "GROUP": "group", "TAG": "tag"}[named.kind.name]
    config = named.cfg or {}
    members = sorted(named.tags) if kind == "tag" else _members(config.get("task")) if kind == "group" else []
    return {
        "kind": kind,
        "yaml": named.yaml_path.resolve().relative_to(root).as_posix() if named.yaml_path else None,
        "output_type": config.get("output_type", "generate_until") if kind == "task" else None,
        "dataset_path": config.get("dataset_path"),
        "training_split": yaml_files.training_split(config) is not None,
        "members": members,
    }


def _members(listed: object) -> list[str]:
    """The names in a group's ``task``: plain ones, and mappings that change a task or make a group in place."""
    names = []
    for member in listed if isinstance(listed, list) else [listed]:
        if isinstance(member, str):
            names.append(member)
        elif isinstance(member, dict) and isinstance(member.get("task"), str):
            names.append(member["task"])
        elif isinstance(member, dict):
            names += _members(member["task"]) if "task" in member else [str(member.get("group"))]
    return names
