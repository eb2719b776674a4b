"""Rows of a pack: what the study says, or the table of memory by model size and device class.

Decided from the study, the model and the class of device alone, never from what happens to be free.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import yaml

from harness.study.config import Study

TABLE = Path(__file__).with_name("pack_sizes.yaml")


def pack_size(study: Study, model: Path, device: str) -> int:
    """The most rows that one pack of this study has on this class of device."""
    if study.pack != "auto":
        return study.pack
    wanted = device_class(device)
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    size = parameters(model)
    return next((int(row[wanted]) for row in rows if size <= row["parameters"]), 1)


def dense_rows(study: Study, model: Path, device: str) -> Callable[[int], int]:
    """How many rows fit that hold so many fp32 copies of the model beside the factors (a function of their number).

    Three fifths of a device's memory are for them, 8 GB on a CPU: activations and the base want the rest.
    """
    kind = device_class(device)
    memory = 8e9 if kind == "cpu" else 1e9 * int(kind.removeprefix("gpu-"))
    size = parameters(model)
    most = pack_size(study, model, device)
    if study.pack != "auto":
        return lambda copies: most
    return lambda copies: max(1, min(most, int(0.6 * memory / (4 * size * copies)))) if copies else most


def device_class(device: str) -> str:
    """``cpu``, or ``gpu-N`` for the largest N of the table that the first GPU's memory reaches."""
    if device != "cuda":
        return "cpu"
    import torch

    gigabytes = torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else 8
    return next((f"gpu-{n}" for n in (70, 40, 16, 8) if gigabytes >= n), "gpu-8")


def parameters(model: Path) -> int:
    """Numbers in a model's safetensors files, read from their headers."""
    total = 0
    for path in model.glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                count = 1
                for extent in entry["shape"]:
                    count *= extent
                total += count
    return total
