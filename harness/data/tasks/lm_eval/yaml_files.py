"""lm-eval's YAML files: where they are, the configuration in one with or without its functions, and its splits."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.data import files
from harness.data.tasks.spec import FEWSHOT, SPLITS, Task
from harness.errors import InputError

_SPLIT_KEYS = ("training_split", "validation_split", "test_split", "fewshot_split")
_DATA_KEYS = ("dataset_path", "dataset_name", "dataset_kwargs")


def tasks_root() -> Path:
    """The folder ``lm_eval/tasks``; imports lm-eval (1 s, without torch)."""
    import lm_eval.tasks

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every name that it has twice
    return Path(lm_eval.tasks.__file__).resolve().parent


def unresolved(file: Path) -> dict[str, Any]:
    """The configuration with includes, and in the place of a function its name and the sha256 of its file."""
    from lm_eval.tasks._yaml_loader import load_yaml

    root = str(tasks_root())

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(part) for key, part in value.items()}
        if isinstance(value, list):
            return [plain(part) for part in value]
        if isinstance(value, str) and value.startswith(root):
            module, _, function = value.rpartition(".")
            source = Path(module + ".py")
            # Not beside the YAML: a module of an installed package, whose source is not read.
            said = files.sha256_of(source) if source.is_file() else module.removeprefix(root)
            return {"function": function, "source": said}
        return value

    return plain(load_yaml(file, resolve_func=False))


def resolved(task: Task, splits: Iterable[str]) -> dict[str, Any]:
    """lm-eval's configuration with its functions, for rows under our names of ``splits``."""
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        config = load_yaml(task.yaml)
    except (Exception, SystemExit) as problem:  # importing its functions runs lm-eval's code, which may do anything
        remedy = "install what it needs, or choose another task"
        what = f"can't be imported: {type(problem).__name__}: {problem}"
        raise InputError(what, where=str(task.yaml), remedy=remedy) from problem
    names = split_names(config)
    ours = {theirs: name for name, theirs in names.items()}
    fewshot = config.get("fewshot_split")
    if fewshot is None and "train" not in names and config.get("test_split") is None:
        # lm-eval takes examples from what it scores and leaves out the item itself only where both have one name.
        fewshot = scored_split(config)
    config = {key: value for key, value in config.items() if key not in (*_SPLIT_KEYS, *_DATA_KEYS)}
    there = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
    config |= {key: split for key, split in there.items() if split in splits}
    if FEWSHOT in splits:
        return config | {"fewshot_split": FEWSHOT}
    return config | ({"fewshot_split": ours[fewshot]} if fewshot else {})


def scored_split(config: Mapping[str, Any]) -> str | None:
    """The split that lm-eval scores: the test split, else the validation split."""
    return config.get("test_split") or config.get("validation_split")


def training_split(config: Mapping[str, Any]) -> str | None:
    """The split to train on, unless it is the very one that is scored (as in gpqa): then None."""
    split = config.get("training_split")
    return split if split and split != scored_split(config) else None


def split_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Our name of a split -> the data set's."""
    test, train = scored_split(config), training_split(config)
    if output_type(config) == "loglikelihood":
        train = None  # the end of a passage is asked for: nothing that is trained on here
    validation, fewshot = config.get("validation_split"), config.get("fewshot_split")
    names = {"test": test, "train": train}
    names["validation"] = validation if validation not in names.values() else None
    names[FEWSHOT] = fewshot if fewshot not in names.values() else None
    return {ours: theirs for ours in (*SPLITS, FEWSHOT) if (theirs := names[ours])}


def output_type(config: Mapping[str, Any]) -> Any:
    """What lm-eval takes the task for: ``generate_until`` where the file does not say."""
    return config.get("output_type") or "generate_until"
