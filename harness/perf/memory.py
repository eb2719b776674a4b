"""Whether a model of a shape fits on the device at all, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.errors import InputError
from harness.perf.ceilings import parameters
from harness.perf.common import SHAPES, perf_dtype

GIB = 2**30
#: Tokens of one trial's step in full rows.
TOKENS = 1024


def least_gib(shape: Mapping[str, Any], device: torch.device) -> float:
    """What one trial takes at least: the weights, and half of the activations that were measured to be kept.

    Measured (bfloat16, no checkpointing): 1.2 MB a token of 135M, 2.5 of 0.5B, 5 of 1.5B.
    """
    width = 6 * shape["hidden_size"] + 4 * shape["intermediate_size"]
    activations = TOKENS * 2 * shape["num_hidden_layers"] * width
    return (parameters(shape) * perf_dtype(device).itemsize + activations) / GIB


def free_gib(device: torch.device, told: Path = Path("/proc/meminfo")) -> float | None:
    """Memory that is free on a GPU, or available on a CPU; None where that can't be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / GIB
    try:
        lines = told.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 / GIB for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def fits(size: str, device: torch.device) -> bool:
    free = free_gib(device)
    return free is None or least_gib(SHAPES[size], device) <= free


def check_fits(size: str, device: torch.device) -> None:
    """Raises InputError for a shape that does not fit with a single trial: how much is missing, and what would fit."""
    if not fits(size, device):
        free, needed = free_gib(device) or 0.0, least_gib(SHAPES[size], device)
        raise does_not_fit(
            size, device, f"needs at least {needed:.1f} GiB, {free:.1f} are free: {needed - free:.1f} are missing"
        )


def does_not_fit(size: str, device: torch.device, why: str) -> InputError:
    """The error for a size that has no room even for one trial."""
    smaller = [other for other in SHAPES if parameters(SHAPES[other]) < parameters(SHAPES.get(size, SHAPES["8b"]))]
    fitting = max((other for other in smaller if fits(other, device)), key=lambda s: parameters(SHAPES[s]), default="")
    remedy = f"'{fitting}' would fit" if fitting else "free memory on the device"
    return InputError(f"a single trial of '{size}' does not fit: it {why}", where="--sizes", remedy=remedy)
