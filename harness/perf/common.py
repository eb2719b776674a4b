"""What every benchmark of ``lorabench perf`` shares: models, clocks, and the file that a result goes into."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch

from harness.engine.environment import device_name, host, synchronize
from harness.engine.model.load import load_model
from harness.engine.model.packed import PackedModel
from harness.errors import unknown_name
from harness.executors.hardware import emulates_bfloat16
from harness.store.clone import clone
from harness.store.files import write_json
from harness.study.stack import LIBRARIES

#: Shapes for seeded random weights: speed needs no real ones.
SHAPES: dict[str, dict[str, Any]] = {
    "135m": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    },
    "0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    },
    "1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 512, "tie_word_embeddings": True,
    },
}  # fmt: skip


def this_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def perf_dtype(device: torch.device) -> torch.dtype:
    """Of the base: bfloat16, but float32 on a CPU that would have to emulate it, and on a GPU before Ampere."""
    emulates = emulates_bfloat16() if device.type == "cpu" else torch.cuda.get_device_capability(device) < (8, 0)
    return torch.float32 if emulates else torch.bfloat16


def perf_model(name: str, device: torch.device) -> PackedModel:
    """A catalogue name, folder or hub id, or seeded random weights of ``random:<shape>``; in :func:`perf_dtype`."""
    dtype = perf_dtype(device)
    if not name.startswith("random:"):
        from harness.data.models import resolve_model

        return load_model(resolve_model(name).path, dtype=dtype, device=device)
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = name.removeprefix("random:")
    if shape not in SHAPES:
        raise unknown_name("shape", shape, SHAPES, where="--model")
    torch.manual_seed(0)
    with device:  # 1.5 billion numbers take a CPU half a minute to draw
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES[shape]), dtype=dtype, attn_implementation="sdpa")
    return PackedModel(cast(Any, model))


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of a piece of work, the device's part included."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def run_apart(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Its status; what it says goes into ``log``.

    Whatever happens here, neither it nor what it has started is left behind.
    """
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            return process.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def result_file(out: Path, benchmark: str, device: torch.device) -> Path:
    """``<benchmark>-<device>.json``"""
    name = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-") if device.type == "cuda" else "cpu"
    return out / f"{benchmark}-{name}.json"


def measured_on(device: torch.device) -> dict[str, Any]:
    """What a result depends on: the device and its host, versions, and the commit."""
    about = {"device": device_name(device), "versions": _versions(), "host": host()}
    return about | {"commit": clone().commit, "clean": clone().clean}


def save(out: Path, benchmark: str, device: torch.device, result: dict[str, Any]) -> None:
    """Write ``<benchmark>-<device>.json`` with what it was measured on."""
    file = result_file(out, benchmark, device)
    write_json(file, {"benchmark": benchmark} | measured_on(device) | result)
    print(file)


def _versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:  # the engine alone needs fewer libraries than the bench
            continue
    return versions
