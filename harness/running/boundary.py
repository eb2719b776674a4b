"""What a pack leaves at its task boundaries: its state is copied, and written while the pack goes on.

With 20 rows on a model of 135M that is 0.7 GB: on an H200 a copy into fresh memory, the file and its fsync took 1.1 s a
boundary, 5 % of the pack.  A kill in the middle of a write leaves the file of the boundary before.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from harness.store.checkpoints import save_checkpoint

#: Bytes of a state up to which it is copied into page-locked memory, several times as fast; what a host has of that is
#: gone for all else, and torch takes the next power of two for each tensor.
LOCKED = 2 * 2**30
#: Bytes of a state on a CPU up to which it is there twice while it is written; a larger one is written at once.
COPIED = 2**28


class CheckpointWriter:
    """Writes the checkpoints of one pack into one file, in a thread of its own, one at a time.

    As a context it ends with its thread: whatever has stopped the pack, nothing writes the file from then on.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self._key = path, key
        self._copies: dict[str, Tensor] = {}  # kept: fresh pages cost as much as the copy
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._write: Future[None] | None = None

    def take(self, tensors: Mapping[str, Tensor], data: Any) -> None:
        """Copy the ``tensors`` and begin to write them with ``data``, which nobody may change any more.

        Raises what the write before has raised (FolderError: the disk is full), for which it waits.
        """
        self.settle()
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > COPIED and not any(tensor.is_cuda for tensor in tensors.values()):
            save_checkpoint(self.path, self._key, {**tensors}, data)
            return
        kept, self._copies = self._copies, {}
        for name, tensor in tensors.items():
            copy = kept.get(name)
            if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                copy = _room_for(tensor, locked=size <= LOCKED)
            self._copies[name] = copy.copy_(tensor.detach())
        self._write = self._thread.submit(save_checkpoint, self.path, self._key, self._copies, data)

    def settle(self) -> None:
        """Wait for the write that is on.  Raises what it raises, once."""
        if self._write is not None:
            try:
                self._write.result()
            finally:
                self._write = None

    def remove(self) -> None:
        """Remove the file, which is of no more use, and whatever became of the last write."""
        with suppress(Exception):
            self.settle()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the write that is on; what stopped the pack counts for more than what that may raise."""
        self._thread.shutdown()
        self._write = None
        self._copies.clear()


def _room_for(tensor: Tensor, *, locked: bool) -> Tensor:
    """Memory of the host for a copy: page-locked for that of a GPU, where the host has some."""
    if locked and tensor.is_cuda:
        with suppress(RuntimeError):
            return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return torch.empty(tensor.shape, dtype=tensor.dtype)
