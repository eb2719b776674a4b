"""Models: a name of the catalogue, a local folder or a hub id -> a plain transformers folder and its digest.

Weights are read from safetensors only, and code that a model brings along is never run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from safetensors import SafetensorError, safe_open

from harness.data import hub, paths, tasks
from harness.data.wheels import sha256_of
from harness.errors import InputError, unknown_name

CATALOGUE = Path(__file__).with_name("models.yaml")
# What a model computes is in these; the rest of a folder (README, generation defaults) is not part of its digest.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded: ``path`` has config.json, *.safetensors and a tokenizer."""

    name: str
    path: Path
    digest: str  #: sha256 of configuration, weights and tokenizer


@functools.cache
def catalogue() -> dict[str, dict]:
    """The entries of ``models.yaml``."""
    return yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))


def model_names() -> list[str]:
    """Names of the catalogue."""
    return sorted(catalogue())


def resolve_model(name: str) -> ModelSource:
    """The model's folder and digest, made or fetched where it is not in the cache.

    Raises InputError for an unknown name, a folder that can't be used, or a hub that can't be reached.
    """
    if name in catalogue():
        from harness.data import build

        path = build.ensure(name, catalogue()[name])
    elif _is_folder(name):
        path = Path(name).expanduser().resolve()
    elif hub.is_hub_id(name):
        path = hub.snapshot(name)
    else:
        raise _unknown(name)
    check_folder(path, name)
    return ModelSource(name, path, folder_digest(path))


def model_ready(name: str) -> bool:
    """True where ``resolve_model`` needs neither a download nor a conversion."""
    if name in catalogue():
        from harness.data import build

        return build.folder(name, catalogue()[name]).is_dir()
    if _is_folder(name):
        return Path(name).expanduser().is_dir()
    return hub.is_hub_id(name) and hub.cached(name) is not None


def task_ready(name: str) -> bool:
    """True where the task's splits are in the cache (``harness.data.tasks.task_ready``)."""
    return tasks.task_ready(name)


def fetch(task_names: Iterable[str], model: str, report: Callable[[str], None]) -> ModelSource:
    """Make the model and the tasks ready to be used offline; ``report`` is called with one line a step."""
    if model_ready(model):
        source = resolve_model(model)
        report(f"model {model}: ready in {source.path}")
    else:
        report(f"model {model}: fetching or building, once")
        source = resolve_model(model)
        report(f"model {model}: made {source.path}")
    for name in task_names:
        if not tasks.task_ready(name):
            report(f"task {name}: building from {tasks.load_task(name).source}")
        prepared = tasks.prepare_task(name)
        sizes = ", ".join(f"{count} {split}" for split, count in prepared.task.splits.items() if count)
        report(f"task {name}: ready ({sizes})")
    return source


def check_folder(path: Path, name: str) -> None:
    """Refuse a folder that is no safe transformers model.  Raises InputError."""
    remedy = "give a folder that save_pretrained wrote: config.json, *.safetensors and a tokenizer"
    if not path.is_dir():
        raise InputError("there is no such folder", where=name, remedy=remedy)
    if not (path / "config.json").is_file():
        raise InputError("the folder has no config.json", where=name, remedy=remedy)
    if not any(path.glob("*.safetensors")):
        pickles = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth") for file in path.glob(kind))
        what = f"only {', '.join(pickles)}: pickles run code when read and are not loaded" if pickles else "no weights"
        raise InputError(f"no *.safetensors, {what}", where=name, remedy="save the model with safe_serialization")
    if shards := hub.absent(path):
        raise InputError(f"weights are missing: {', '.join(shards[:3])}", where=name, remedy="copy or fetch it again")
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"not a safetensors file: {error}", where=str(file), remedy="copy or fetch it again"
            ) from error
    for file in ("config.json", "tokenizer_config.json"):
        if (path / file).is_file() and "auto_map" in _json(path / file):
            raise InputError(
                "auto_map asks for code that comes with the model; trust_remote_code is never on",
                where=f"{name}/{file}:auto_map",
                remedy="use a model whose architecture is part of transformers",
            )
    if not any((path / file).is_file() for file in TOKENIZER_FILES):
        raise InputError("the folder has no tokenizer", where=name, remedy="save it there: tokenizer.save_pretrained")


def folder_digest(path: Path) -> str:
    """sha256 over config.json, the weights and the tokenizer.

    Hashing 270 MB takes a moment, so it is kept in the cache under the files' names, sizes and times.
    """
    files = sorted([*path.glob("*.safetensors"), *(path / f for f in TOKENIZER_FILES if (path / f).is_file())])
    files.append(path / "config.json")
    stamp = [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]
    kept = paths.cache_dir() / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.json"
    try:
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["stamp"] == stamp:
            return known["digest"]
    except (OSError, ValueError, KeyError):
        pass  # not hashed yet, or a torn file: hash it
    total = hashlib.sha256(_config_identity(path / "config.json").encode())
    for file in files[:-1]:
        total.update(f"\n{file.name} {sha256_of(file)}".encode())
    entry = json.dumps({"path": str(path), "stamp": stamp, "digest": total.hexdigest()})
    paths.publish_file(lambda temporary: temporary.write_text(entry, encoding="utf-8"), kept)
    return total.hexdigest()


def _config_identity(path: Path) -> str:
    """config.json without what only says who wrote it."""
    config = {key: value for key, value in _json(path).items() if key not in ("transformers_version", "_name_or_path")}
    return json.dumps(config, sort_keys=True)


def _json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        what = f"not readable as JSON: {problem}"
        raise InputError(what, where=str(path), remedy="save the model again") from problem
    if not isinstance(value, dict):
        raise InputError("must be a JSON object", where=str(path), remedy="save the model again")
    return value


def _is_folder(name: str) -> bool:
    """True for a path: it exists, or is written as one (``./x``, ``/x``, ``~/x``)."""
    return bool(re.match(r"[.~]?[/\\]|\.\.[/\\]|[A-Za-z]:[/\\]", name)) or Path(name).is_dir()


def _unknown(name: str) -> InputError:
    error = unknown_name("model", name, model_names())
    return InputError(error.what, remedy=f"{error.remedy}; or a folder, or a hub id 'org/name'")
