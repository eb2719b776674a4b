"""Models of the Hugging Face hub: snapshots at the locked revision, of what is read and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from harness.data.models.folder import absent
from harness.data.sources import hub
from harness.errors import InputError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_PATTERNS = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
]  # no pickles, no code


def is_hub_id(name: str) -> bool:
    """True for ``org/name`` or ``org/name@revision``."""
    return bool(_HUB_ID.fullmatch(name))


def cached(name: str) -> Path | None:
    """The snapshot's folder where the locked revision is on this machine, else None.  Never asks the network."""
    commit = hub.locked("models", name)
    return _local(name.split("@")[0], commit) if commit else None


def snapshot(name: str) -> Path:
    """The folder of a hub model, downloaded if missing.  Raises InputError where the hub can't be reached."""
    if (path := cached(name)) is not None:
        return path
    if switch := hub.offline("models"):
        raise _needs_hub(name, f"{switch} is set, as it is in all verbs but fetch")
    from huggingface_hub import HfApi, snapshot_download

    repo, _, revision = name.partition("@")
    try:
        commit = hub.locked("models", name)
        if commit is None:
            commit = HfApi().model_info(repo, revision=revision or None, timeout=hub.TIMEOUT).sha
        if commit is None:
            raise _needs_hub(name, "it names no commit")
        path = snapshot_download(repo, revision=commit, allow_patterns=_PATTERNS, etag_timeout=hub.TIMEOUT)
    except InputError:
        raise
    except Exception as problem:
        # errors of huggingface_hub, of httpx and of the system: to the user they are one thing
        raise _needs_hub(name, f"{type(problem).__name__}: {str(problem).strip()[:300]}") from problem
    hub.lock("models", name, commit)
    return Path(path)


def _needs_hub(name: str, why: str) -> InputError:
    return InputError(
        f"needs the hub: {why}",
        where=name,
        remedy="connect and fetch again, give a local folder, or use a model of harness/data/models/catalogue.yaml",
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
