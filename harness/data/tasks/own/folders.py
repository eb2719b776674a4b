"""The folders of tasks: which there are, and what the YAML in one says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.data import paths
from harness.data.sources import cl_benchmark
from harness.data.tasks.own import task_yaml
from harness.data.tasks.own.task_yaml import HubSource, Metadata, WheelSource
from harness.data.tasks.spec import Task
from harness.errors import InputError


def task_files() -> dict[str, Path]:
    """Task -> its YAML: every folder ``NAME`` of the folders of tasks that holds a ``NAME.yaml``.

    Raises InputError where two have one name.
    """
    files: dict[str, Path] = {}
    for folder in paths.task_dirs():
        for path in sorted(folder.glob("*/*.yaml")):
            name = path.stem
            if name != path.parent.name:
                continue
            if name in files:
                what = f"there are two tasks named '{name}'; the other is {paths.shown(files[name])}"
                raise InputError(what, where=paths.shown(path), remedy="rename one of them")
            files[name] = path
    return files


def read_task(name: str, file: Path) -> Task:
    """The task as its YAML says it, wherever the folder is.  Raises InputError: a bad value, as ``file:key``."""
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
        **_origin(meta),
    )


def _origin(meta: Metadata) -> dict[str, Any]:
    """The fields of a Task that say where its rows come from."""
    source = meta.source
    if meta.files and cl_benchmark.named():
        return {"source": f"{cl_benchmark.FOLDER}/{meta.files.cl_benchmark}", "files": meta.files.pin()}
    if isinstance(source, WheelSource):
        return {"source": f"{source.wheel}: {', '.join(source.members)}", "wheel": source.pin()}
    if isinstance(source, HubSource):
        return {"source": f"the hub's data set {source.pin()}", "hub": source.pin()}
    return {"source": source}
