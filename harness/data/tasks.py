"""Tasks: one folder each under ``tasks/``, an lm-eval YAML with a ``metadata`` block and a ``prepare.py``.

The YAML is lm-eval's own format without ``dataset_path``: the splits are built by ``prepare_task`` into the cache
(``harness.data.splits``) and handed to lm-eval by the scorer.  Format and steps: ``tasks/README.md``.  A name that has
no folder is one of lm-eval's own tasks (``harness.data.lm_eval_tasks``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from harness.data import paths, task_yaml
from harness.data.hub_data import HubData
from harness.data.task_yaml import SPLITS, HubSource, Kind, Role, WheelSource
from harness.data.wheels import Wheel
from harness.errors import InputError, LorabenchError, unknown_name

Origin = Literal["lorabench", "lm-eval"]
FEWSHOT = "fewshot"  # lm-eval's own tasks only: the split of worked examples where it is none of the three


@dataclass(frozen=True)
class Task:
    """A task as its YAML says it, nothing fetched yet."""

    name: str
    yaml: Path
    config: dict[str, Any]  #: the YAML; lm-eval's own with digests in the place of its functions
    kind: Kind
    version: int | float | str
    licence: str
    source: str
    chance: float | None
    splits: dict[str, int]  #: items of train, validation and test; none of lm-eval's own before they are prepared
    role: Role
    origin: Origin = "lorabench"
    wheel: Wheel | None = field(default=None, repr=False)
    hub: HubData | None = field(default=None, repr=False)
    split_seed: int = 0
    group: str | None = None  #: documents with the same value of this field stay in one split

    @property
    def folder(self) -> Path:
        return self.yaml.parent

    def where(self, key: str) -> str:
        """``tasks/foo/foo.yaml:key``, as errors name it."""
        return f"{paths.shown(self.yaml)}:{key}"


@dataclass(frozen=True)
class PreparedTask:
    """A task whose splits lie in the cache."""

    task: Task  #: with the items of every split
    files: dict[str, Path]  #: split -> JSONL; a split of 0 items has none
    digest: str  #: sha256 over the canonical config and every split's content
    config: dict[str, Any]  #: for lm-eval: functions resolved, splits under our names, no ``dataset_path``
    shuffled: bool  #: False where the rows have the order of the data set they come from


def task_names() -> list[str]:
    """Every folder ``<name>`` of the folders of tasks that holds a ``<name>.yaml``."""
    return sorted(_task_files())


def _task_files() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in paths.task_dirs():
        for path in sorted(folder.glob("*/*.yaml")):
            name = path.stem
            if name != path.parent.name:
                continue
            if name in found:
                what = f"there are two tasks named '{name}'; the other is {paths.shown(found[name])}"
                raise InputError(what, where=paths.shown(path), remedy="rename one of them")
            found[name] = path
    return found


def load_task(name: str) -> Task:
    """Read and check a task's YAML, the project's or lm-eval's own.

    Raises InputError: an unknown name, a task of lm-eval's that can't be used, or a bad value as ``file:key``.
    """
    files = _task_files()
    if name not in files:
        from harness.data import lm_eval_tasks

        return lm_eval_tasks.load(name)
    return read_task(name, files[name])


def read_task(name: str, file: Path) -> Task:
    """A task of ours as its YAML says it, wherever the folder is.  Raises InputError as :func:`load_task`."""
    config, meta = task_yaml.read(file, paths.shown(file), name)
    if not (file.parent / "prepare.py").is_file():
        raise InputError("there is no prepare.py", where=paths.shown(file.parent), remedy="see tasks/README.md, step 2")
    return Task(
        name=name,
        yaml=file,
        config=config,
        kind=config["output_type"],
        version=meta.version,
        licence=meta.licence,
        chance=meta.chance,
        splits=meta.splits.model_dump(),
        role=meta.role,
        split_seed=meta.split_seed,
        group=meta.group,
        **_origin(meta.source),
    )


def _origin(source: WheelSource | HubSource | str) -> dict[str, Any]:
    """The fields of a Task that say where its rows come from."""
    if isinstance(source, WheelSource):
        return {"source": f"{source.wheel}: {', '.join(source.members)}", "wheel": source.pin()}
    if isinstance(source, HubSource):
        return {"source": f"the hub's data set {source.pin()}", "hub": source.pin()}
    return {"source": source}


def task_ready(name: str) -> bool:
    """True where the task's splits are in the cache and whole, so that ``prepare_task`` needs no network."""
    from harness.data import stored

    return stored.read_manifest(load_task(name)) is not None


def prepare_task(name: str) -> PreparedTask:
    """The task with its splits in the cache; builds and checks them the first time, later only reads (quick).

    Raises InputError where the task breaks its own declaration (file:key), LorabenchError where a download fails.
    """
    from harness.data import lm_eval_tasks, splits, stored

    task = load_task(name)
    own = task.origin == "lorabench"
    build = splits.build if own else lm_eval_tasks.build
    manifest = stored.read_manifest(task) or build(task)
    folder = stored.cache_folder(task)
    files = {split: folder / f"{split}.jsonl" for split in manifest["files"]}
    config = task.config if own else lm_eval_tasks.resolved(task, files)
    return PreparedTask(replace(task, splits=manifest["counts"]), files, manifest["digest"], config, shuffled=own)


def read_split(prepared: PreparedTask, split: str) -> list[dict]:
    """The documents of one split, in their fixed order; an empty list where the task has none.

    Raises LorabenchError where the file was damaged since the task was prepared.
    """
    if split not in (*SPLITS, FEWSHOT):
        raise unknown_name("split", split, (*SPLITS, FEWSHOT))
    if split not in prepared.files:
        return []
    file = prepared.files[split]
    try:
        with file.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except (OSError, ValueError, RecursionError) as problem:
        what, remedy = f"it was damaged after it was checked: {problem}", "run again: it is built anew"
        raise LorabenchError(what, where=str(file), remedy=remedy) from problem
