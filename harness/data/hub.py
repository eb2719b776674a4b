"""Models from the Hugging Face hub, and the lock: a revision is resolved once and used from then on.

``lock.json`` holds the commits of models and of data sets (``harness.data.hub_data``).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Literal

from harness.data import paths
from harness.data.model_folder import absent
from harness.errors import InputError
from harness.reading import read_json

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATTERNS = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
]  # no pickles, no code
TIMEOUT = 10  # seconds for the first answer; a machine without a network must hear so within seconds

Kind = Literal["models", "datasets"]


def is_hub_id(name: str) -> bool:
    """True for ``org/name`` or ``org/name@revision``."""
    return bool(_HUB_ID.fullmatch(name))


def cached(name: str) -> Path | None:
    """The snapshot's folder where the locked revision is on this machine, else None.  Never asks the network."""
    commit = locked("models", name)
    return _local(name.split("@")[0], commit) if commit else None


def snapshot(name: str) -> Path:
    """The folder of a hub model, downloaded if missing.  Raises InputError where the hub can't be reached."""
    if (path := cached(name)) is not None:
        return path
    if switch := offline("models"):
        raise _needs_hub(name, f"{switch} is set, as it is in all verbs but fetch")
    from huggingface_hub import HfApi, snapshot_download

    repo, _, revision = name.partition("@")
    try:
        commit = locked("models", name) or HfApi().model_info(repo, revision=revision or None, timeout=TIMEOUT).sha
        if commit is None:
            raise _needs_hub(name, "it names no commit")
        path = snapshot_download(repo, revision=commit, allow_patterns=_PATTERNS, etag_timeout=TIMEOUT)
    except InputError:
        raise
    except Exception as problem:
        # huggingface_hub raises its own, httpx's and the system's errors here; to the user they are one thing
        raise _needs_hub(name, f"{type(problem).__name__}: {str(problem).strip()[:300]}") from problem
    lock("models", name, commit)
    return Path(path)


def offline(kind: Kind) -> str | None:
    """The environment variable that forbids asking the hub, or None."""
    switches = ("HF_HUB_OFFLINE", *(["HF_DATASETS_OFFLINE"] if kind == "datasets" else []))
    return next((name for name in switches if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")), None)


def _needs_hub(name: str, why: str) -> InputError:
    return InputError(
        f"needs the hub: {why}",
        where=name,
        remedy="connect and fetch again, give a local folder, or use a catalogue model (harness/data/models.yaml)",
    )


def _local(repo: str, commit: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(repo, revision=commit, allow_patterns=_PATTERNS, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    # The folder is there from the first file on: one that a kill left unfinished must be completed, not used.
    return path if (path / "config.json").exists() and any(path.glob("*.safetensors")) and not absent(path) else None


def locked(kind: Kind, name: str) -> str | None:
    """The commit of a name: its own revision where that is a commit, else what the lock file says."""
    revision = name.partition("@")[2]
    return revision if _COMMIT.fullmatch(revision) else _read_lock().get(kind, {}).get(name)


def _read_lock() -> dict[str, dict[str, str]]:
    file = paths.lock_file()
    if not file.is_file():
        return {}
    remedy = "restore it from git, or delete it: the next fetch resolves the revisions anew"
    found = read_json(file, where=paths.shown(file), remedy=remedy)
    kinds = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(commits, dict) and all(map(_is_commit, commits.values())) for commits in kinds):
        raise InputError("not a lock file", where=paths.shown(file), remedy=remedy)
    return found


def _is_commit(value: object) -> bool:
    return isinstance(value, str) and value.isalnum()


def lock(kind: Kind, name: str, commit: str) -> None:
    """Write down the commit of a name, once."""
    commits = _read_lock()
    known = commits.get(kind, {})
    if _COMMIT.fullmatch(name.partition("@")[2]) or known.get(name) == commit:
        return
    commits[kind] = dict(sorted((known | {name: commit}).items()))
    text = json.dumps(dict(sorted(commits.items())), indent=2) + "\n"
    paths.publish_file(lambda temporary: temporary.write_text(text, encoding="utf-8"), paths.lock_file())
