"""A model's folder: whether it may be loaded, and the digests of what is read from it.

Weights come from safetensors only, code that a model brings along is never run, and nothing outside the folder is
read but what a symlink of the hub's cache points to.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from harness.data import paths
from harness.data.files import publish_file, sha256_of
from harness.errors import InputError
from harness.reading import read_json

WEIGHTS = "*.safetensors"
INDEX = "model.safetensors.index.json"
#: What transformers reads beside the weights: configuration, tokenizers of all kinds, chat templates, the shard index.
READ = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.codes", "*.tokenizer", "additional_chat_templates/*")
#: Named like those and read by nothing here.
UNREAD = re.compile(
    r"(LICEN[CS]E|NOTICE|README|requirements|trainer_state|(all|train|eval)_results|(pre)?processor_config"
    r"|video_preprocessor_config|lorabench).*",
    re.IGNORECASE,
)
#: A folder has a tokenizer where one of these is in it.
VOCABULARIES = ("tokenizer.json", "tokenizer_config.json", "*.model", "vocab.json", "vocab.txt", "*.tiktoken")
#: Keys that only say who wrote a configuration.
AUTHOR = ("transformers_version", "_name_or_path", "_from_model_config")
SAVE_AGAIN = "copy or fetch the model again, or save it anew with save_pretrained"


def check_folder(path: Path, name: str) -> None:
    """Refuse a folder that is no safe transformers model with a tokenizer.  Raises InputError."""
    check_weights(path, name)
    for file in read_files(path):
        if file.suffix == ".json" and file.name != "tokenizer.json":  # that one is large, and read when it is loaded
            read_json(file, remedy=SAVE_AGAIN)
    if not any(file.is_file() for pattern in VOCABULARIES for file in path.glob(pattern)):
        raise InputError("the folder has no tokenizer", where=name, remedy="save it there: tokenizer.save_pretrained")


def check_weights(path: Path, name: str) -> None:
    """Refuse a folder whose configuration and weights can't be loaded safely.  Raises InputError."""
    remedy = "give a folder that save_pretrained wrote: config.json, *.safetensors and a tokenizer"
    if not path.is_dir():
        raise InputError("there is no such folder", where=name, remedy=remedy)
    _refuse_adapter(path)
    if not (path / "config.json").is_file():
        raise InputError("the folder has no config.json", where=name, remedy=remedy)
    files = sorted(file for file in path.glob(WEIGHTS) if file.is_file())
    if not files:
        pickles = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth") for file in path.glob(kind))
        what = f"only {', '.join(pickles)}: pickles run code when read and are not loaded" if pickles else "no weights"
        raise InputError(f"no *.safetensors, {what}", where=name, remedy="save the model with safe_serialization")
    if shards := absent(path):
        raise InputError(f"weights are missing: {', '.join(shards[:3])}", where=name, remedy="copy or fetch it again")
    for file in files:
        try:
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"not a safetensors file: {error}", where=str(file), remedy="copy or fetch it again"
            ) from error
    for file in ("config.json", "tokenizer_config.json"):
        if (path / file).is_file() and "auto_map" in _object(path / file):
            raise InputError(
                "auto_map asks for code that comes with the model; trust_remote_code is never on",
                where=f"{name}/{file}:auto_map",
                remedy="use a model whose architecture is part of transformers",
            )
    _refuse_files_elsewhere(path)


def _refuse_files_elsewhere(path: Path) -> None:
    """A tokenizer's configuration may name its files; one outside the folder would be read, and be in no digest."""
    file = path / "tokenizer_config.json"
    if not file.is_file():
        return
    for key, value in _object(file).items():
        for named in value if isinstance(value, list) else [value]:
            if key.endswith(("_file", "_files")) and isinstance(named, str) and not re.fullmatch(r"[^/\\\0]+", named):
                raise InputError(
                    f"names {named!r}; a tokenizer's files are in the model's folder itself",
                    where=f"{file}:{key}",
                    remedy="do not use this model unless you know who made it; save its tokenizer anew",
                )


def _refuse_adapter(path: Path) -> None:
    """transformers puts an adapter that lies in a model's folder on the base without a word."""
    file = path / "adapter_config.json"
    if not file.exists():
        return
    try:
        base = _object(file).get("base_model_name_or_path")
    except InputError:
        base = None
    raise InputError(
        "this folder holds an adapter, and a study starts from a base model",
        where=str(file),
        remedy=f"give the base{f' ({base})' if base else ''}; to score the adapter: "
        f"lorabench audit {path} --model BASE --tasks ...; if it is a left-over, remove it and its weights",
    )


# -- the shard index --------------------------------------------------------------------------------------------------


def absent(path: Path) -> list[str]:
    """The weight files that a sharded model's index names and the folder lacks.

    Raises InputError for a file that is no index, or an index that names a file outside the folder.
    """
    return sorted(shard for shard in set(_weight_map(path).values()) if not (path / shard).is_file())


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor -> file, by the index; empty where there is none.  What a file is called counts, not where it lies: in
    the hub's cache all are symlinks to another folder.
    """
    index = path / INDEX
    if not index.exists():
        return {}
    shards = _object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise InputError("must be an object: tensor -> file", where=f"{index}:weight_map", remedy=SAVE_AGAIN)
    for key, shard in shards.items():
        if not isinstance(shard, str):
            raise InputError(
                f"must be the name of a file, not {json.dumps(shard)}",
                where=f"{index}:weight_map.{key}",
                remedy=SAVE_AGAIN,
            )
        if not re.fullmatch(r"[^/\\\0]+\.safetensors", shard):
            raise InputError(
                f"names {shard!r}; weights are *.safetensors files in the folder itself",
                where=f"{index}:weight_map.{key}",
                remedy="do not use this model unless you know who made it; save it anew with save_pretrained",
            )
    return shards


# -- digests ----------------------------------------------------------------------------------------------------------


def folder_digest(path: Path) -> str:
    """sha256 over every file that is read: configurations, weights, shard index, tokenizer and chat templates.

    Hashing 270 MB takes a moment, so it is kept in the cache under the files' names, sizes and times.
    """
    files = [*sorted(path.glob(WEIGHTS)), *read_files(path)]
    stamp = [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]
    kept = paths.cache_dir() / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.json"
    try:
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["stamp"] == stamp and known["format"] == 2:
            return known["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not hashed yet, or a torn file: hash it
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(path).as_posix()} {_identity(file)}\n".encode())
    entry = json.dumps({"format": 2, "path": str(path), "stamp": stamp, "digest": total.hexdigest()})
    publish_file(lambda temporary: temporary.write_text(entry, encoding="utf-8"), kept)
    return total.hexdigest()


def read_files(path: Path) -> list[Path]:
    """What is read beside the weights, in the order of the names."""
    matching = {file for pattern in READ for file in path.glob(pattern) if file.is_file()}
    return sorted(file for file in matching if not UNREAD.fullmatch(file.name))


def _identity(file: Path) -> str:
    """A file's sha256; of a configuration without what only says who wrote it, and what says that it is off."""
    if file.name not in ("config.json", "generation_config.json"):
        return sha256_of(file)
    config = {key: value for key, value in _object(file).items() if key not in AUTHOR}
    if file.name == "generation_config.json":  # some versions write every setting, others those that are set
        config = {key: value for key, value in config.items() if value is not None and value is not False}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def tensor_digest(path: Path) -> str:
    """sha256 over all tensors of a folder's safetensors: name, dtype, shape and bytes, in the order of the names.

    What else is in the files, such as who wrote them and in which order, does not count.
    """
    total = hashlib.sha256()
    tensors = [entry for file in path.glob(WEIGHTS) for entry in _tensors(file)]
    for name, kind, content in sorted(tensors, key=lambda entry: entry[0]):
        total.update(f"{name} {kind} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()


def _tensors(file: Path) -> Iterator[tuple[str, str, memoryview]]:
    """(name, dtype and shape, bytes) of a safetensors file, read by hand: numpy has no bfloat16."""
    with file.open("rb") as opened:
        whole = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    start = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(bytes(whole[8:start]))
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            yield name, f"{entry['dtype']} {entry['shape']}", whole[start + first : start + last]


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path, remedy=SAVE_AGAIN)
    if not isinstance(value, dict):
        raise InputError("must be a JSON object", where=str(path), remedy=SAVE_AGAIN)
    return value
