"""lm-eval's own tasks by name: any that is a YAML about text, with its data from the hub or a mirror.

Our ``test`` is what lm-eval itself scores, its test split or else its validation split; ``train`` is its training
split; ``validation`` its validation split, or else some rows taken out of ``train``, so that tuning never sees the
test items.  Rows are kept as the data set has them: lm-eval applies ``process_docs`` by itself.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.data import hub_data, lm_eval_index, paths, stored, tasks, wheels
from harness.data.hub_data import HubData
from harness.data.lm_eval_index import scored_split, training_split
from harness.data.tasks import FEWSHOT, SPLITS, Task
from harness.errors import InputError

VALIDATION_ROWS = 200  # taken out of train where there is no validation split, and at most a tenth of it
_HUB_FILE = re.compile(r"hf://datasets/([^/]+/[^/]+)/(.+)")
_SPLIT_KEYS = ("training_split", "validation_split", "test_split", "fewshot_split")
_DATA_KEYS = ("dataset_path", "dataset_name", "dataset_kwargs")


def load(name: str) -> Task:
    """The task as lm-eval's YAML says it, nothing fetched yet.

    Raises InputError for an unknown name, a group or tag, and tasks that can't be trained on or scored here.
    """
    entry = lm_eval_index.index().get(name)
    if entry is None:
        raise _unknown(name)
    if entry["kind"] in ("group", "tag"):
        members = lm_eval_index.tasks_of(name)
        shown = ", ".join(members[:5]) + (", …" if len(members) > 5 else "")
        what = f"'{name}' is a group of {len(members)} tasks, not a task"
        raise InputError(what, where="lm-eval", remedy=f"name the tasks that you want: {shown}")
    file = lm_eval_index.tasks_root() / entry["yaml"]
    if entry["kind"] == "python":
        raise _refusal(file, "class", f"'{name}' is defined in Python, and its data are out of reach")
    try:
        return _task(name, file)
    except InputError:
        raise
    except Exception as problem:
        # lm-eval's files are trusted, but one that was edited or cut has many ways to fail
        what = f"'{name}' can't be read: {type(problem).__name__}: {problem}"
        raise InputError(what, where=str(file), remedy="install lm-eval again, or choose another task") from problem


def _task(name: str, file: Path) -> Task:
    config = _unresolved(file)
    _check(config, name, file)
    kind, choices = _kind(config), config.get("doc_to_choice")
    data = _data(config, name, file)
    return Task(
        name=name,
        yaml=file,
        config=config,
        kind=kind,
        version=_version(config),
        licence="see the data set",
        source=f"the hub's data set {data}",
        chance=1 / len(choices) if choices and isinstance(choices, list) and kind == "multiple_choice" else None,
        splits={},
        role="stream" if "train" in _splits(config) else "probe",
        origin="lm-eval",
        hub=data,
    )


def build(task: Task) -> dict:
    """Read the data set's splits, put them into the cache, return the manifest.  Raises InputError."""
    assert task.hub is not None, "load gives every task its data set"
    where = task.where("dataset_path")
    loaded = hub_data.load(task.hub, where)
    found = {
        ours: list(hub_data.rows(task.hub, loaded, theirs, where)) for ours, theirs in _splits(task.config).items()
    }
    if "train" in found and "validation" not in found:
        if task.config.get("fewshot_split") in (None, training_split(task.config)):
            found[FEWSHOT] = found["train"]  # whole: lm-eval's examples are drawn from all of it
        count = min(VALIDATION_ROWS, len(found["train"]) // 10)
        drawn = set(random.Random(0).sample(range(len(found["train"])), count))
        found["validation"] = [row for number, row in enumerate(found["train"]) if number in drawn]
        found["train"] = [row for number, row in enumerate(found["train"]) if number not in drawn]
    return stored.write(task, {split: found[split] for split in (*SPLITS, FEWSHOT) if split in found})


def resolved(task: Task, splits: Iterable[str]) -> dict[str, Any]:
    """lm-eval's configuration with its functions, for rows under our names of ``splits``."""
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        config = load_yaml(task.yaml)
    except (Exception, SystemExit) as problem:  # importing its functions runs lm-eval's code, which may do anything
        remedy = "install what it needs, or choose another task"
        what = f"can't be imported: {type(problem).__name__}: {problem}"
        raise InputError(what, where=str(task.yaml), remedy=remedy) from problem
    names = _splits(config)
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


def _splits(config: Mapping[str, Any]) -> dict[str, str]:
    """Our name of a split -> the data set's."""
    test, train = scored_split(config), training_split(config)
    if _kind(config) == "loglikelihood":
        train = None  # the end of a passage is asked for: nothing that is trained on here
    validation, fewshot = config.get("validation_split"), config.get("fewshot_split")
    found = {"test": test, "train": train}
    found["validation"] = validation if validation not in found.values() else None
    found[FEWSHOT] = fewshot if fewshot not in found.values() else None
    return {ours: theirs for ours in (*SPLITS, FEWSHOT) if (theirs := found[ours])}


def _kind(config: Mapping[str, Any]) -> Any:
    return config.get("output_type") or "generate_until"  # as lm-eval does


def _version(config: Mapping[str, Any]) -> Any:
    metadata = config.get("metadata")
    return metadata.get("version", 0) if isinstance(metadata, dict) else 0


def _unresolved(file: Path) -> dict[str, Any]:
    """The configuration with includes, and in the place of a function its name and the sha256 of its file."""
    from lm_eval.tasks._yaml_loader import load_yaml

    root = str(lm_eval_index.tasks_root())

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(part) for key, part in value.items()}
        if isinstance(value, list):
            return [plain(part) for part in value]
        if isinstance(value, str) and value.startswith(root):
            module, _, function = value.rpartition(".")
            source = Path(module + ".py")
            # Not beside the YAML: a module of an installed package, which has no place of its own to be read from.
            said = wheels.sha256_of(source) if source.is_file() else module.removeprefix(root)
            return {"function": function, "source": said}
        return value

    return plain(load_yaml(file, resolve_func=False))


def _data(config: Mapping[str, Any], name: str, file: Path) -> HubData:
    """The data set that a configuration names, with what lm-eval hands to ``datasets.load_dataset``."""
    options = dict(config.get("dataset_kwargs") or {})
    for key in ("trust_remote_code", "streaming"):
        options.pop(key, None)
    revision = options.pop("revision", None)
    repo, reader = config["dataset_path"], None
    if repo in ("json", "csv", "parquet", "text"):
        found = {split: _HUB_FILE.fullmatch(str(url)) for split, url in (options.get("data_files") or {}).items()}
        repos = {match[1] for match in found.values() if match}
        if len(repos) != 1 or not all(found.values()):
            raise _refusal(file, "dataset_kwargs", f"the data of '{name}' are files outside the hub")
        options["data_files"] = {split: match[2] for split, match in found.items() if match}
        repo, reader = repos.pop(), repo
    return HubData(repo, config.get("dataset_name"), tuple(_splits(config).values()), revision, reader, options)


def _check(config: Mapping[str, Any], name: str, file: Path) -> None:
    """Refuse what can't be trained on or scored here, by the key that says so."""
    for key in ("doc_to_image", "doc_to_audio"):
        if config.get(key):
            raise _refusal(file, key, f"'{name}' asks about pictures or sound")
    if config.get("unsafe_code"):
        raise _refusal(file, "unsafe_code", f"'{name}' runs the code that a model writes")
    if config.get("custom_dataset") or not config.get("dataset_path"):
        raise _refusal(file, "custom_dataset", f"'{name}' makes its data in Python")
    if scored_split(config) is None:
        raise _refusal(file, "test_split", f"'{name}' names neither a test nor a validation split")
    if config.get("process_results"):
        return  # its own function scores, and the metrics are only names
    import lm_eval.api.metrics  # noqa: F401  fills the registry
    from lm_eval.api.registry import METRIC_REGISTRY

    for metric in config.get("metric_list") or ():
        called = metric["metric"]
        if isinstance(called, str) and (metric.get("hf_evaluate") or called not in METRIC_REGISTRY):
            raise _refusal(file, "metric_list", f"the metric '{called}' of '{name}' would be downloaded as code")


def _refusal(file: Path, key: str, what: str) -> InputError:
    return InputError(what, where=f"{file}:{key}", remedy="choose another task: lorabench tasks --lm-eval lists them")


def _unknown(name: str) -> InputError:
    """The nearest names of both lists; the project's own first where both are as near."""
    own = tasks.task_names()
    near = difflib.get_close_matches(name, [*own, *lm_eval_index.index()], n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    known = f"known: {', '.join(own) or 'none'}; and lm-eval's own: lorabench tasks --lm-eval"
    return InputError(f"unknown task '{name}'", where=paths.shown(paths.tasks_dir()), remedy=hint + known)
