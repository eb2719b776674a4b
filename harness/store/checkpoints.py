"""Boundary checkpoints of a running pack: tensors as safetensors with the plain data in its header, in one file.

One file, so that a kill can't leave tensors of one task with the scores of another.  No pickles.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.store.files import atomic_file

if TYPE_CHECKING:
    from torch import Tensor


def checkpoint_path(folder: Path, pack: str) -> Path:
    return folder / "running" / f"{pack}.safetensors"


def sweep(folder: Path, packs: Collection[str]) -> None:
    """Remove what a killed run left in ``running/``, except the checkpoints of ``packs``, which still have work.

    Only for whoever holds the folder's claim.  A kill between a pack's last record and the removal of its checkpoint
    leaves one that nothing will ever read.
    """
    keep = {checkpoint_path(folder, pack) for pack in packs}
    sweep_signs(folder)
    for pattern in ("*.safetensors", "standing.json", "*.lock", ".*.tmp", ".tmp*"):
        for path in (folder / "running").glob(pattern):
            if path not in keep:
                path.unlink(missing_ok=True)


def sweep_signs(folder: Path) -> None:
    """Remove the signs of life of jobs that are at work no more, as those of a worker that was killed are left."""
    for pattern in ("*.progress", "*.new", "*.crash"):
        for path in (folder / "running").glob(pattern):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def save_checkpoint(path: Path, key: str, tensors: dict[str, Tensor], data: Any) -> None:
    """Write a pack's whole state at a task boundary.  ``key`` says what it belongs to.

    Raises FolderError where it can't be written; what was there is left.
    """
    from safetensors.torch import save_file

    metadata = {"key": key, "data": json.dumps(data, allow_nan=True)}
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    atomic_file(path, lambda temporary: save_file(ready, temporary, metadata=metadata))


def load_checkpoint(path: Path, key: str) -> tuple[dict[str, Tensor], Any] | None:
    """(tensors, data) of a checkpoint with this key; ``None`` where it is missing, damaged or another's."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["data"])  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError):
        return None
