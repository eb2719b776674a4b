"""What numbers depend on beside a study's trials, as far as that can be told without torch."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from harness.study.config import CommonSettings

LIBRARIES = ("lorabench", "torch", "transformers", "peft", "lm_eval", "datasets", "numpy", "scipy")


def cpu_name() -> str:
    """The kind of device that this machine's CPU is."""
    return f"cpu ({platform.machine()})"


def plain_stack(study: CommonSettings, device: str) -> dict[str, Any]:
    """Of a record's ``stack``: versions, device kind, dtype, threads and scoring batch; without a GPU's kernels.

    ``device`` is a GPU's name, or :func:`cpu_name`.
    """
    return {library: version(library) for library in LIBRARIES} | {
        "device": device,
        "dtype": study.dtype,
        "threads": study.threads,
        "batch_tokens": study.scoring.batch_tokens,
    }


def agrees(stack: Mapping[str, Any], plain: Mapping[str, Any]) -> bool:
    """Whether a record's ``stack`` is that of :func:`plain_stack`, as far as that goes."""
    return all(stack.get(key) == value for key, value in plain.items())
