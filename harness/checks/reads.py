"""Whatever would make a GPU wait for a value, seen in a trace on a CPU."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class HostReads(TorchDispatchMode):
    """Collects what would make a GPU wait: values read back, and shapes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[str, list[tuple[str, int]]]] = []

    def note(self, name: str) -> None:
        frames = [(frame.filename, frame.lineno) for frame in inspect.stack(0)]
        # Students that sample answers have to be read: whoever samples must know where an answer ends.
        if not any(file.endswith("harness/engine/generate.py") for file, _ in frames):
            self.noted.append((name, frames))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1] or ()
        )
        if masked or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"):
            self.note(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def watched(reads: HostReads) -> Iterator[None]:
    """Note ``tolist``, ``numpy`` and ``cpu`` as well, which do not show in a trace on a CPU."""
    originals = {name: getattr(Tensor, name) for name in ("tolist", "numpy", "cpu")}

    def watch(name: str) -> Callable[..., Any]:
        def read(tensor: Tensor, *arguments: Any, **settings: Any) -> Any:
            reads.note(name)
            return originals[name](tensor, *arguments, **settings)

        return read

    try:
        for name in originals:
            setattr(Tensor, name, watch(name))
        yield
    finally:
        for name, original in originals.items():
            setattr(Tensor, name, original)
