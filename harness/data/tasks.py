"""Tasks: one folder each under ``tasks/``, an lm-eval YAML with a ``metadata`` block and a ``prepare.py``.

The YAML is lm-eval's own format without ``dataset_path``: the splits are built by ``prepare_task`` into the cache
(``harness.data.splits``) and handed to lm-eval by the scorer.  Format and steps: ``tasks/README.md``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.data import paths
from harness.data.wheels import Wheel
from harness.errors import InputError, unknown_name

Kind = Literal["multiple_choice", "generate_until", "loglikelihood_rolling"]
Role = Literal["stream", "probe", "toy"]
SPLITS = ("train", "validation", "test")
KINDS = ("multiple_choice", "generate_until", "loglikelihood_rolling")


class WheelSource(BaseModel):
    """A pinned wheel and what of it the task uses (paths, for the reader)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wheel: str = Field(pattern=r"^[\w.-]+==[\w.!+-]+$")  #: ``name==version``
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    members: tuple[str, ...] = Field(min_length=1)

    def pin(self) -> Wheel:
        name, version = self.wheel.split("==")
        return Wheel(name, version, self.sha256)


class SplitSizes(BaseModel):
    """Items a split.  Probes have train 0; every task has a test split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: int = Field(ge=0)
    validation: int = Field(ge=0)
    test: int = Field(gt=0)


class Metadata(BaseModel):
    """The ``metadata`` block of a task's YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int  #: to be raised with any change of the prompt or the items
    role: Role
    licence: str = Field(min_length=1)
    source: WheelSource | str  #: a wheel, or words such as ``made in code``
    chance: float | None = Field(ge=0, le=1)  #: score of guessing; null where that has no meaning
    splits: SplitSizes
    split_seed: int
    group: str | None = None  #: a field of the documents; those that share its value stay in one split


@dataclass(frozen=True)
class Task:
    """A task as its folder says it, nothing fetched yet."""

    name: str
    folder: Path
    config: dict[str, Any]  #: the lm-eval YAML; no ``dataset_path``
    kind: Kind
    version: int
    licence: str
    source: str
    chance: float | None
    splits: dict[str, int]  #: declared items of train, validation and test
    role: Role
    wheel: Wheel | None = field(default=None, repr=False)
    split_seed: int = 0
    group: str | None = None  #: documents with the same value of this field stay in one split

    @property
    def yaml(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    def where(self, key: str) -> str:
        """``tasks/foo/foo.yaml:key``, as errors name it."""
        return f"{paths.shown(self.yaml)}:{key}"


@dataclass(frozen=True)
class PreparedTask:
    """A task whose splits lie in the cache."""

    task: Task
    files: dict[str, Path]  #: split -> JSONL; a split of 0 items has none
    digest: str  #: sha256 over the canonical config and every split's content


def task_names() -> list[str]:
    """Every folder ``<name>`` of the tasks folder that holds a ``<name>.yaml``."""
    return sorted(path.parent.name for path in paths.tasks_dir().glob("*/*.yaml") if path.stem == path.parent.name)


def load_task(name: str) -> Task:
    """Read and check a task's YAML.  Raises InputError: an unknown name, or a bad value as ``file:key``."""
    if name not in task_names():
        raise unknown_name("task", name, task_names(), where=paths.shown(paths.tasks_dir()))
    folder = paths.tasks_dir() / name
    where = paths.shown(folder / f"{name}.yaml")
    config = _read_yaml(folder / f"{name}.yaml", where)
    meta = _metadata(config, where)
    _check_config(config, meta, name, where)
    if not (folder / "prepare.py").is_file():
        raise InputError("there is no prepare.py", where=paths.shown(folder), remedy="see tasks/README.md, step 2")
    source = meta.source
    in_wheel = isinstance(source, WheelSource)
    return Task(
        name=name,
        folder=folder,
        config=config,
        kind=config["output_type"],
        version=meta.version,
        licence=meta.licence,
        source=f"{source.wheel}: {', '.join(source.members)}" if in_wheel else str(source),
        chance=meta.chance,
        splits=meta.splits.model_dump(),
        role=meta.role,
        wheel=source.pin() if in_wheel else None,
        split_seed=meta.split_seed,
        group=meta.group,
    )


def task_ready(name: str) -> bool:
    """True where the task's splits are in the cache and whole, so that ``prepare_task`` needs no network."""
    from harness.data import splits

    return splits.read_manifest(load_task(name)) is not None


def prepare_task(name: str) -> PreparedTask:
    """The task with its splits in the cache; builds and checks them the first time, later only reads (quick).

    Raises InputError where the task breaks its own declaration (file:key), LorabenchError where a download fails.
    """
    from harness.data import splits

    task = load_task(name)
    manifest = splits.read_manifest(task) or splits.build(task)
    files = {split: splits.split_file(task, split) for split in manifest["files"]}
    return PreparedTask(task, files, manifest["digest"])


def read_split(prepared: PreparedTask, split: str) -> list[dict]:
    """The documents of one split, in their fixed, shuffled order; an empty list where the task declares 0 items."""
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if split not in prepared.files:
        return []
    with prepared.files[split].open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _read_yaml(path: Path, where: str) -> dict:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        remedy = "plain YAML only: lm-eval's !function tags are not supported, do such work in prepare.py"
        raise InputError(f"not readable as YAML: {problem}", where=where, remedy=remedy) from problem
    if not isinstance(config, dict):
        raise InputError("the file must be a mapping", where=where, remedy="see tasks/README.md, step 1")
    return config


def _metadata(config: dict, where: str) -> Metadata:
    try:
        return Metadata.model_validate(config.get("metadata") or {})
    except ValidationError as problem:
        # For a union pydantic adds the name of the tried type to the path; a person can't find that in the file.
        error = problem.errors()[0]
        steps = [str(step) for step in error["loc"] if step not in ("WheelSource", "str")]
        key = ".".join(["metadata", *steps])
        remedy = "see the keys in tasks/README.md, step 1"
        raise InputError(error["msg"], where=f"{where}:{key}", remedy=remedy) from None


def _check_config(config: dict, meta: Metadata, name: str, where: str) -> None:
    """What lorabench asks of the YAML beyond lm-eval's own checks."""

    def refuse(key: str, what: str, remedy: str) -> None:
        raise InputError(what, where=f"{where}:{key}", remedy=remedy)

    for key in ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset"):
        if key in config:
            refuse(key, "the data come from prepare.py", f"remove '{key}'")
    if config.get("task") != name:
        refuse("task", f"must be the folder's name '{name}'", f"write 'task: {name}'")
    if config.get("output_type") not in KINDS:
        refuse("output_type", f"must be one of {', '.join(KINDS)}", "choose one of them")
    sizes = meta.splits.model_dump()
    for split, key in (("train", "training_split"), ("validation", "validation_split"), ("test", "test_split")):
        wanted = split if sizes[split] else None
        if config.get(key) != wanted:
            remedy = f"write '{key}: {wanted}'" if wanted else f"remove '{key}', or declare items for it"
            refuse(key, f"does not fit metadata.splits.{split}, which is {sizes[split]}", remedy)
    if meta.role == "stream" and not (sizes["train"] and sizes["validation"]):
        refuse("metadata.splits", "a stream task needs train and validation items", "declare them, or role: probe")
    if meta.role == "probe" and sizes["train"]:
        refuse("metadata.splits.train", "a probe is never trained on", "write 0, or role: stream")
    for number, metric in enumerate(config.get("metric_list") or [{}]):
        if missing := [key for key in ("metric", "aggregation", "higher_is_better") if key not in metric]:
            refuse(f"metric_list.{number}", f"lacks {', '.join(missing)}", "write all three, or lm-eval guesses")
