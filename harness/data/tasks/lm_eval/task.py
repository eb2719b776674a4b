"""A task as lm-eval's YAML says it, and what can't be trained on or scored here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.data.sources.hub_data import HubData
from harness.data.tasks.lm_eval import index, yaml_files
from harness.data.tasks.lm_eval.index import Entry
from harness.data.tasks.lm_eval.yaml_files import output_type, scored_split, split_names, unresolved
from harness.data.tasks.spec import Task
from harness.errors import InputError

_HUB_FILE = re.compile(r"hf://datasets/([^/]+/[^/]+)/(.+)")


def load(name: str, entry: Entry) -> Task:
    """The task of this entry of the index as lm-eval's YAML says it, nothing fetched yet.

    Raises InputError for a group or tag, and for tasks that can't be trained on or scored here.
    """
    if entry["kind"] in ("group", "tag"):
        members = index.tasks_of(name)
        shown = ", ".join(members[:5]) + (", …" if len(members) > 5 else "")
        what = f"'{name}' is a group of {len(members)} tasks, not a task"
        raise InputError(what, where="lm-eval", remedy=f"name the tasks that you want: {shown}")
    file = yaml_files.tasks_root() / entry["yaml"]
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
    config = unresolved(file)
    _check(config, name, file)
    kind, choices = output_type(config), config.get("doc_to_choice")
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
        role="stream" if "train" in split_names(config) else "probe",
        origin="lm-eval",
        hub=data,
    )


def _version(config: Mapping[str, Any]) -> Any:
    metadata = config.get("metadata")
    return metadata.get("version", 0) if isinstance(metadata, dict) else 0


def _data(config: Mapping[str, Any], name: str, file: Path) -> HubData:
    """The data set that a configuration names, with what lm-eval hands to ``datasets.load_dataset``."""
    options = dict(config.get("dataset_kwargs") or {})
    for key in ("trust_remote_code", "streaming"):
        options.pop(key, None)
    revision = options.pop("revision", None)
    repo, reader = config["dataset_path"], None
    if repo in ("json", "csv", "parquet", "text"):
        places = {split: _HUB_FILE.fullmatch(str(url)) for split, url in (options.get("data_files") or {}).items()}
        repos = {match[1] for match in places.values() if match}
        if len(repos) != 1 or not all(places.values()):
            raise _refusal(file, "dataset_kwargs", f"the data of '{name}' are files outside the hub")
        options["data_files"] = {split: match[2] for split, match in places.items() if match}
        repo, reader = repos.pop(), repo
    return HubData(repo, config.get("dataset_name"), tuple(split_names(config).values()), revision, reader, options)


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
        return  # the task's function scores, and the metrics are only names
    import lm_eval.api.metrics  # noqa: F401  fills the registry
    from lm_eval.api.registry import METRIC_REGISTRY

    for metric in config.get("metric_list") or ():
        called = metric["metric"]
        if isinstance(called, str) and (metric.get("hf_evaluate") or called not in METRIC_REGISTRY):
            raise _refusal(file, "metric_list", f"the metric '{called}' of '{name}' would be downloaded as code")


def _refusal(file: Path, key: str, what: str) -> InputError:
    return InputError(what, where=f"{file}:{key}", remedy="choose another task: lorabench tasks --lm-eval lists them")
