"""What every benchmark of ``lorabench perf`` shares: models, clocks, and the file that a result goes into."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch

from harness.engine.environment import LIBRARIES, device_name, host, synchronize
from harness.engine.model.load import load_model
from harness.engine.model.packed import PackedModel
from harness.errors import unknown_name
from harness.store.files import write_json

#: Shapes for seeded random weights: speed needs no real ones.
SHAPES: dict[str, dict[str, Any]] = {
    "135m": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    },
    "1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 512, "tie_word_embeddings": True,
    },
}  # fmt: skip


def this_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def perf_model(name: str, device: torch.device) -> PackedModel:
    """A catalogue name, folder or hub id, or seeded random weights of ``random:<shape>``; in bfloat16."""
    if not name.startswith("random:"):
        from harness.data.models import resolve_model

        return load_model(resolve_model(name).path, dtype=torch.bfloat16, device=device)
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = name.removeprefix("random:")
    if shape not in SHAPES:
        raise unknown_name("shape", shape, SHAPES, where="--model")
    torch.manual_seed(0)
    settings: dict[str, Any] = {**SHAPES[shape], "attn_implementation": "sdpa"}
    config = LlamaConfig(**settings)
    model = cast(Any, LlamaForCausalLM(config))  # whose `to` is wrapped without its types
    return PackedModel(model.to(device=device, dtype=torch.bfloat16))


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of a piece of work, the device's part included."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def save(out: Path, benchmark: str, device: torch.device, result: dict[str, Any]) -> None:
    """Write ``<benchmark>-<device>.json`` with what it was measured on."""
    about = {"benchmark": benchmark, "device": device_name(device), "versions": _versions(), "host": host()}
    name = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-") if device.type == "cuda" else "cpu"
    write_json(out / f"{benchmark}-{name}.json", about | result)
    print(out / f"{benchmark}-{name}.json")


def _versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:  # the engine alone needs fewer libraries than the bench
            continue
    return versions
