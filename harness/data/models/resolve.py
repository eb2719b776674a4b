"""The front door of models: a name of the catalogue, a local folder or a hub id -> a plain folder and its digest.

Weights are read from safetensors only, and code that a model brings along is never run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.data.models import build, hub
from harness.data.models.catalogue import catalogue, model_names
from harness.data.models.folder import check_folder, folder_digest
from harness.errors import InputError, unknown_name


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded: ``path`` has config.json, *.safetensors and a tokenizer."""

    name: str
    path: Path
    digest: str  #: sha256 of all files that are read: configurations, weights, tokenizer


def resolve_model(name: str) -> ModelSource:
    """The model's folder and digest, made or fetched where it is not in the cache.

    Raises InputError for an unknown name, a folder that can't be used, or a hub that can't be reached.
    """
    if not name.strip():
        raise InputError("no model is named", where="--model", remedy="leave it out, or name one")
    if name in catalogue():
        path = build.ensure(name, catalogue()[name])
        build.verify(path, name, catalogue()[name])
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
        return build.folder(name, catalogue()[name]).is_dir()
    if _is_folder(name):
        return Path(name).expanduser().is_dir()
    return hub.is_hub_id(name) and hub.cached(name) is not None


def _is_folder(name: str) -> bool:
    """True for a path: it exists, or is written as one (``./x``, ``/x``, ``~/x``)."""
    try:
        return bool(re.match(r"[.~]?[/\\]|\.\.[/\\]|[A-Za-z]:[/\\]", name)) or Path(name).is_dir()
    except (OSError, ValueError):  # longer than a path can be, or with a NUL
        return False


def _unknown(name: str) -> InputError:
    error = unknown_name("model", name, model_names())
    return InputError(error.what, remedy=f"{error.remedy}; or a folder, or a hub id 'org/name'")
