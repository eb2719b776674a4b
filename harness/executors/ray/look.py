"""What a node of a cluster has, said by a process there.

Nothing but Python's own library is imported, and Ray sends these functions by value: the node may lack all else.
"""

from __future__ import annotations

import os
import platform
import socket
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def look(libraries: tuple[str, ...], gpu: bool) -> dict[str, Any]:
    """``host``, ``processor`` (its kind), and ``libraries``: the version of each, None where it is not installed.

    With ``gpu`` also its ``gpus``: (name, bytes of memory) of each that torch sees; and ``blind``, where it sees none:
    why, as far as torch tells.  That needs a process which has not asked CUDA for anything yet.
    """
    seen: dict[str, Any] = {"host": socket.gethostname(), "processor": platform.machine()}
    seen["libraries"] = {library: _version(library) for library in libraries}
    if gpu:
        unhide()
        seen["gpus"], seen["blind"] = _gpus()
    return seen


def unhide() -> None:
    """Let CUDA see what Ray hides from a process that has asked it for no GPU."""
    if not os.environ.get("CUDA_VISIBLE_DEVICES"):
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _gpus() -> tuple[list[tuple[str, int]], str]:
    try:
        torch = import_module("torch")
        if not torch.cuda.is_available():
            return [], f"torch {torch.__version__} sees none"
        each = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [(one.name, one.total_memory) for one in each], ""
    except Exception as error:  # whatever a broken installation raises
        return [], f"{type(error).__name__}: {error}"
