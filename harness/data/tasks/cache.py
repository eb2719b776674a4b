"""Prepared splits in the cache: JSONL files and a manifest, published in one step.

The folder is named after a digest of what the splits are made of, so a changed task is built anew and an unchanged
one only read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.data import files, paths
from harness.data.sources import cl_benchmark, hub_data
from harness.data.tasks.spec import FEWSHOT, SPLITS, Task
from harness.errors import InputError, LorabenchError
from harness.reading import read_json

FORMAT = 1  # raise when what is written changes


def source_digest(task: Task) -> str:
    """sha256 over what the splits are made of.

    For a task of a folder the files in it (what ``prepare.py`` may read, and how it makes documents of it),
    for one of lm-eval's the configuration; for both the version of the hub's data, or of the benchmark's files.
    """
    digest = hashlib.sha256(f"format {FORMAT}\n".encode())
    if task.origin == "lorabench":
        for path in sorted(task.folder.iterdir()):
            if path.is_file() and path.suffix != ".md":
                digest.update(f"{path.name}\n{files.sha256_of(path)}\n".encode())
    else:
        digest.update(_canonical(task.config).encode())
    if task.hub:
        digest.update(f"{hub_data.identity(task.hub)}\n".encode())
    if task.files:
        digest.update(f"{cl_benchmark.identity(task.files)}\n".encode())
    return digest.hexdigest()


def cache_folder(task: Task) -> Path:
    """Where the splits of this very version of the task lie."""
    return paths.cache_dir() / "tasks" / task.name / source_digest(task)[:16]


def read_manifest(task: Task) -> dict | None:
    """The manifest of built splits, or None where they are not built or a file is damaged."""
    folder = cache_folder(task)
    try:
        manifest = read_json(folder / "manifest.json")
        counts, digests = manifest["counts"], manifest["files"]
        actual = {split: _identity(folder / f"{split}.jsonl") for split in digests if split in (*SPLITS, FEWSHOT)}
        declared = {split: (counts[split], sha) for split, sha in digests.items()}
        rest = [count for split, count in counts.items() if split not in digests]
        whole = actual == declared and not any(rest) and manifest["digest"] == digest(task, digests)
    except (InputError, OSError, KeyError, TypeError, AttributeError):  # JSON of another form too
        return None
    return manifest if whole else None


def _identity(file: Path) -> tuple[int, str]:
    """Lines and sha256 of a file."""
    with file.open("rb") as lines:
        count, digest = 0, hashlib.sha256()
        for line in lines:
            digest.update(line)
            count += 1
    return count, digest.hexdigest()


def write(task: Task, splits: Mapping[str, Sequence[dict]], notes: Sequence[str] = ()) -> dict:
    """Put the splits into the cache in one step and return the manifest; a split without documents gets no file.

    ``notes`` say what became of the source's rows, where that is more than the task's declaration says.
    """
    folder = cache_folder(task)

    def fill(workspace: Path) -> None:
        digests = {}
        for split, docs in splits.items():
            if docs:
                text = "".join(_line(task, split, doc) for doc in docs)
                (workspace / f"{split}.jsonl").write_bytes(text.encode("utf-8"))
                digests[split] = hashlib.sha256(text.encode("utf-8")).hexdigest()
        counts = {split: len(docs) for split, docs in splits.items()}
        manifest = {"counts": counts, "digest": digest(task, digests), "files": digests}
        manifest["source"] = "; ".join([task.source, *notes])
        (workspace / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    if read_manifest(task) is None:  # no other process has built it meanwhile: what is there is damaged
        files.discard(folder)
    files.publish_dir(fill, folder)
    manifest = read_manifest(task)
    if manifest is None:
        what = "the splits just written can't be read back"
        raise LorabenchError(what, where=str(folder), remedy="is the disk full? else delete this folder by hand")
    return manifest


def digest(task: Task, digests: Mapping[str, str]) -> str:
    """The task's identity: sha256 over its config and its splits, each by the sha256 of its file.

    Of ``metadata`` only the version counts: a reworded licence must not make old results look like another task.
    """
    config = task.config | {"metadata": {"version": task.version}}
    return hashlib.sha256(_canonical([config, digests]).encode("utf-8")).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _line(task: Task, split: str, doc: dict) -> str:
    try:
        line = json.dumps(doc, ensure_ascii=False) + "\n"
        line.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as problem:  # half a character of UTF-16 is a ValueError
        kinds = ", ".join(f"{name}: {type(value).__name__}" for name, value in doc.items())
        what = f"a document of the {split} split is no plain JSON ({problem}); its fields: {kinds}"
        where, remedy = task.where("metadata.source"), "only text, numbers, lists and mappings can be kept"
        raise InputError(what, where=where, remedy=remedy) from problem
    return line
