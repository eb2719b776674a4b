"""Building a task's splits: source rows -> documents -> de-duplicated, shuffled, checked JSONL in the cache.

The folder in the cache is named after a digest of the task folder's files, so a changed YAML or ``prepare.py``
is rebuilt and an unchanged one only read.
"""

from __future__ import annotations

import ast
import fnmatch
import functools
import hashlib
import json
import random
import shutil
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from harness.data import paths, wheels
from harness.data.tasks import SPLITS, Task
from harness.errors import InputError, LorabenchError

FORMAT = 1  # raise when this module changes what it writes

# The same settings as lm-eval's own environment; only used for checks, training and scoring render with lm-eval.
_TEMPLATES = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


class Source:
    """What a task's ``rows(source)`` reads from: the members of its pinned wheel, and files of its own folder.

    The wheel is downloaded and verified on first use; members are read inside the zip, nothing is unpacked.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._archive: zipfile.ZipFile | None = None

    def names(self, pattern: str) -> list[str]:
        """The wheel's members that match a shell pattern, sorted."""
        return sorted(name for name in self._open().namelist() if fnmatch.fnmatchcase(name, pattern))

    def text(self, member: str, encoding: str = "utf-8") -> str:
        """A member of the wheel as text."""
        return self._open().read(member).decode(encoding)

    def jsonl(self, member: str) -> Iterator[dict]:
        """The rows of a JSONL member of the wheel."""
        return (json.loads(line) for line in self.text(member).split("\n") if line.strip())

    def file(self, name: str) -> str:
        """A file of the task's own folder as text."""
        return (self._task.folder / name).read_text(encoding="utf-8")

    def _open(self) -> zipfile.ZipFile:
        if self._archive is None:
            if self._task.wheel is None:
                remedy = "declare {wheel, sha256, members}, or use source.file for a file of the folder"
                raise InputError("names no wheel to read", where=self._task.where("metadata.source"), remedy=remedy)
            self._archive = zipfile.ZipFile(wheels.ensure_wheel(self._task.wheel))
        return self._archive


def question(task: Task, doc: dict) -> str:
    """The text that makes a document itself: the rendered prompt, or the scored text of a rolling task."""
    return str(_render(task, "doc_to_target" if task.kind == "loglikelihood_rolling" else "doc_to_text", doc))


def choices(task: Task, doc: dict) -> list[str]:
    """The answers of a multiple-choice document."""
    options = _render(task, "doc_to_choice", doc)
    return list(ast.literal_eval(options) if isinstance(options, str) else options)


def target(task: Task, doc: dict) -> int | str:
    """The right answer: an index into ``choices``, or the text of a generation task."""
    answer = _render(task, "doc_to_target", doc)
    digits = task.kind == "multiple_choice" and isinstance(answer, str) and answer.isdigit()
    return int(answer) if digits else answer


@functools.lru_cache(maxsize=256)
def _template(text: str) -> jinja2.Template:
    return _TEMPLATES.from_string(text)


def _render(task: Task, key: str, doc: dict) -> Any:
    """A ``doc_to_*`` entry for one document: a literal list, the name of a field, or a template, as in lm-eval."""
    entry = task.config.get(key)
    if isinstance(entry, list | int):
        return entry
    if not isinstance(entry, str):
        raise InputError("is missing", where=task.where(key), remedy=f"write '{key}: …' as lm-eval's task guide says")
    if entry in doc:
        return doc[entry]
    try:
        return _template(entry).render(**doc)
    except jinja2.TemplateError as problem:
        remedy = f"fields of a document: {', '.join(doc)}"
        raise InputError(f"can't be rendered: {problem}", where=task.where(key), remedy=remedy) from problem


def folder_digest(task: Task) -> str:
    """sha256 over the files of the task's folder: what ``prepare.py`` may read, and how it makes documents of it."""
    digest = hashlib.sha256(f"format {FORMAT}\n".encode())
    for path in sorted(task.folder.iterdir()):
        if path.is_file() and path.suffix != ".md":
            digest.update(f"{path.name}\n{wheels.sha256_of(path)}\n".encode())
    return digest.hexdigest()


def cache_folder(task: Task) -> Path:
    """Where the splits of this very version of the task lie."""
    return paths.cache_dir() / "tasks" / task.name / folder_digest(task)[:16]


def split_file(task: Task, split: str) -> Path:
    """The JSONL file of one split."""
    return cache_folder(task) / f"{split}.jsonl"


def read_manifest(task: Task) -> dict | None:
    """The manifest of built splits, or None where they are not built or a file is damaged."""
    folder = cache_folder(task)
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        whole = all(wheels.sha256_of(folder / f"{split}.jsonl") == sha for split, sha in manifest["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return manifest if whole else None


def build(task: Task) -> dict:
    """Build the splits, check them, publish them in one step, return the manifest."""
    splits = draw(task, list(documents(task)))
    check(task, splits)
    folder = cache_folder(task)

    def write(workspace: Path) -> None:
        files = {}
        for split, docs in splits.items():
            if docs:
                text = "".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs)
                (workspace / f"{split}.jsonl").write_bytes(text.encode("utf-8"))
                files[split] = hashlib.sha256(text.encode("utf-8")).hexdigest()
        counts = {split: len(docs) for split, docs in splits.items()}
        manifest = {"counts": counts, "digest": digest(task, files), "files": files, "source": task.source}
        (workspace / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    if folder.exists():  # it is there but read_manifest refused it: damaged
        shutil.rmtree(folder, ignore_errors=True)
    paths.publish_dir(write, folder)
    manifest = read_manifest(task)
    if manifest is None:
        what = "the splits just written can't be read back"
        raise LorabenchError(what, where=str(folder), remedy="is the disk full?")
    return manifest


def digest(task: Task, files: dict[str, str]) -> str:
    """The task's identity: sha256 over its config and its splits.

    Of ``metadata`` only the version counts: a reworded licence must not make old results look like another task.
    """
    config = task.config | {"metadata": {"version": task.version}}
    canonical = json.dumps([config, files], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def documents(task: Task) -> Iterator[dict]:
    """Run ``rows(source)`` of the task's ``prepare.py``."""
    path = task.folder / "prepare.py"
    module = types.ModuleType(f"lorabench_task_{task.name}")
    try:
        # Not imported by name: the file is no part of a package, and no __pycache__ may appear in the tasks folder.
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
        yield from module.rows(Source(task))
    except LorabenchError:
        raise
    except Exception as problem:
        what = f"rows(source) failed: {type(problem).__name__}: {problem}"
        remedy = "correct prepare.py; see tasks/README.md, step 2"
        raise InputError(what, where=paths.shown(path), remedy=remedy) from problem


def draw(task: Task, docs: list[dict]) -> dict[str, list[dict]]:
    """De-duplicate on the rendered question, shuffle with the task's seed, cut test, validation and train.

    A question with two different answers is dropped altogether.  Where the task names a ``group`` field, whole
    groups are dealt out, so that no test item shares, say, its story with a training item.
    """
    by_question: dict[str, list[dict]] = {}
    for doc in docs:
        by_question.setdefault(" ".join(question(task, doc).split()), []).append(doc)
    kept = [same[0] for same in by_question.values() if len({_answer(task, doc) for doc in same}) == 1]
    chance = random.Random(task.split_seed)
    chance.shuffle(kept)
    groups: dict[str, list[dict]] = {}
    for number, doc in enumerate(kept):
        groups.setdefault(_group(task, doc) if task.group else str(number), []).append(doc)
    queue, splits = list(groups.values()), {}
    for split in ("test", "validation", "train"):
        drawn: list[dict] = []
        while queue and len(drawn) < task.splits[split]:
            drawn += queue.pop(0)
        if task.group:
            chance.shuffle(drawn)  # so that any first n items are a fair sample, not n questions on few stories
        splits[split] = drawn[: task.splits[split]]
    return {split: splits[split] for split in SPLITS}


def _group(task: Task, doc: dict) -> str:
    if task.group not in doc:
        where, remedy = task.where("metadata.group"), f"fields of a document: {', '.join(doc)}"
        raise InputError(f"the documents have no field '{task.group}'", where=where, remedy=remedy)
    return str(doc[task.group])


def _answer(task: Task, doc: dict) -> str:
    """The right answer as text, so that two documents can be compared whatever the order of their choices."""
    answer = target(task, doc)
    if task.kind == "multiple_choice" and isinstance(answer, int) and 0 <= answer < len(choices(task, doc)):
        return choices(task, doc)[answer]
    return str(answer)


def check(task: Task, splits: dict[str, list[dict]]) -> None:
    """Raise InputError, naming file and key, for splits that break the task's declaration."""
    seen: dict[str, str] = {}
    text_key = "doc_to_target" if task.kind == "loglikelihood_rolling" else "doc_to_text"
    for split, docs in splits.items():
        if len(docs) != task.splits[split]:
            have = f"only {len(docs)} are left for it, of {sum(map(len, splits.values()))} distinct ones"
            where, remedy = task.where(f"metadata.splits.{split}"), "declare smaller splits, or give more rows"
            raise InputError(f"{task.splits[split]} items are declared but {have}", where=where, remedy=remedy)
        for number, doc in enumerate(docs):
            text = " ".join(question(task, doc).split())
            if not text:
                what = f"renders to nothing for {split} item {number}: {doc}"
                raise InputError(what, where=task.where(text_key), remedy="leave such rows out in prepare.py")
            for shared in [text, f"group {_group(task, doc)}"] if task.group else [text]:
                if seen.setdefault(shared, split) != split:
                    what = f"splits {seen[shared]} and {split} have an item in common: {shared[:80]!r}"
                    where, remedy = task.where("metadata.splits"), "every item must be in one split only"
                    raise InputError(what, where=where, remedy=remedy)
            _check_answer(task, doc, f"{split} item {number}")


def _check_answer(task: Task, doc: dict, item: str) -> None:
    """Labels in range, choices distinct and not empty, texts not empty."""
    answer = target(task, doc)
    if task.kind == "multiple_choice":
        options = choices(task, doc)
        if len(options) < 2 or len(set(options)) < len(options) or not all(isinstance(o, str) and o for o in options):
            remedy = "give at least two different, non-empty texts"
            raise InputError(f"{item} has the choices {options}", where=task.where("doc_to_choice"), remedy=remedy)
        if type(answer) is not int or not 0 <= answer < len(options):
            remedy = f"must be an index from 0 to {len(options) - 1} into the choices"
            raise InputError(f"{item} has the label {answer!r}", where=task.where("doc_to_target"), remedy=remedy)
    elif not isinstance(answer, str) or not answer.strip():
        remedy = "must be a non-empty text"
        raise InputError(f"{item} has the answer {answer!r}", where=task.where("doc_to_target"), remedy=remedy)
