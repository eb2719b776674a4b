"""Adapters on disk: a safetensors file a trial, and PEFT's format.

What is stored is what was scored: the student's factors or their average.  The files of earlier versions hold the
trials of a pack, stacked; both are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.engine.adapters.layout import DenseLayout, Layout
from harness.engine.adapters.peft_config import CONFIG
from harness.engine.adapters.peft_weights import WEIGHTS
from harness.errors import InputError
from harness.store.files import atomic_file, write_json
from harness.study.config import AdapterSettings

MAGNITUDE = "lora_magnitude_vector"  #: as PEFT names DoRA's


def save_adapters(
    path: Path,
    layout: Layout | DenseLayout,
    entries: Sequence[tuple[str, Tensor]],
    model: str,
    adapter: AdapterSettings,
    scalings: Sequence[float] | None = None,
) -> None:
    """Write the adapters [P] of several trials as ``<module>.lora_A`` [K, r, n] and ``<module>.lora_B`` [K, m, r].

    DoRA's have ``<module>.lora_magnitude_vector`` [K, m] beside them.

    ``entries`` are pairs of a trial's fingerprint and its values, ``scalings`` the factors of their B A (by default the
    adapter's alpha / rank); ``model`` is the base as the study names it.  Dense changes and vectors other than DoRA's
    have no place in PEFT's format and are not written: the former take 0.4 GB each for a base of 135M.
    """
    if isinstance(layout, DenseLayout) or set(layout.vectors) - {"magnitude"}:
        return
    scalings = scalings or [adapter.alpha / adapter.rank] * len(entries)
    stacked = layout.split(torch.stack([values for _, values in entries]).cpu())
    tensors = {}
    for slot, (a, b) in zip(layout.slots, stacked, strict=True):
        tensors[f"{slot.module}.lora_A"], tensors[f"{slot.module}.lora_B"] = a.contiguous(), b.contiguous()
    if "magnitude" in layout.vectors:
        magnitudes = layout.vector("magnitude", torch.stack([values for _, values in entries]).cpu())
        for slot, magnitude in zip(layout.slots, magnitudes, strict=True):
            tensors[f"{slot.module}.{MAGNITUDE}"] = magnitude.contiguous()
    metadata = {
        "trials": json.dumps([fingerprint for fingerprint, _ in entries]),
        "model": model,
        "adapter": adapter.model_dump_json(),
        "scalings": json.dumps([float(scaling) for scaling in scalings]),
    }
    atomic_file(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def _peft_name(name: str) -> str:
    return f"base_model.model.{name}" if name.endswith(MAGNITUDE) else f"base_model.model.{name}.weight"


def adapter_path(folder: Path, name: str) -> Path:
    """The file of an adapter; ``name`` is a trial's fingerprint, alone or with a task: ``<fingerprint>-task2``."""
    return folder / "adapters" / f"{name}.safetensors"


def find_adapter(folder: Path, trial: str) -> tuple[Path, int]:
    """(file, place in its stacks) of a trial's adapter; of the last task where several were kept."""
    by_name = [*(folder / "adapters").glob(f"{trial}-task*.safetensors"), *folder.glob(f"adapters/{trial}.safetensors")]
    # A later task's name is longer or greater; a pack's file may be named like nothing of these.
    last = sorted(by_name, key=lambda path: (path.stem == trial, len(path.name), path.name), reverse=True)
    packs = sorted(set((folder / "adapters").glob("*.safetensors")) - set(by_name), key=_written, reverse=True)
    for path in (*last, *packs):
        try:
            with safe_open(path, framework="pt") as file:
                trials = json.loads((file.metadata() or {}).get("trials", "[]"))
        except (SafetensorError, OSError, ValueError):
            continue
        if trial in trials:
            return path, trials.index(trial)
    raise InputError(
        f"no adapter of trial {trial} was kept",
        where=str(folder / "adapters"),
        remedy="set keep_adapters: last in the study, remove the trial's record and run again; a result that "
        "is a dense matrix is never kept, since PEFT's format has no place for it",
    )


def _written(path: Path) -> float:
    return path.stat().st_mtime


@dataclass(frozen=True)
class StoredAdapter:
    """One trial's adapter as it was kept: tensors by module and factor, and the factor of its B A."""

    tensors: Mapping[str, Tensor]
    scaling: float
    model: str
    targets: tuple[str, ...]

    @property
    def rank(self) -> int:
        return next(tensor.shape[0] for name, tensor in self.tensors.items() if name.endswith("lora_A"))

    @property
    def modules(self) -> frozenset[str]:
        """Names of the matrices that it adapts."""
        return frozenset(name.removesuffix(".lora_A") for name in self.tensors if name.endswith(".lora_A"))

    @property
    def has_magnitudes(self) -> bool:
        """Whether rows of W0 are scaled as well (DoRA)."""
        return any(name.endswith(MAGNITUDE) for name in self.tensors)


def read_adapter(source: Path, place: int) -> StoredAdapter:
    """The adapter at this place of a file's stacks (``find_adapter``)."""
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name)[place].clone() for name in file.keys()}  # noqa: SIM118
    adapter = json.loads(metadata["adapter"])
    scaling = json.loads(metadata["scalings"])[place] if "scalings" in metadata else adapter["alpha"] / adapter["rank"]
    return StoredAdapter(tensors, scaling, metadata["model"], tuple(adapter["targets"]))


def export_peft(
    source: Path, place: int, target: Path, *, base: str | None = None, revision: str | None = None
) -> StoredAdapter:
    """Write one trial's adapter as a folder that ``PeftModel.from_pretrained`` loads, and everybody may read.

    ``base`` is what ``from_pretrained`` takes for its base (by default the study's name for it), ``revision`` the
    hub's.  Returns what was written.
    """
    stored = read_adapter(source, place)
    tensors = {_peft_name(name): tensor for name, tensor in stored.tensors.items()}
    target.mkdir(parents=True, exist_ok=True)
    atomic_file(target / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    write_json(
        target / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base or stored.model,
            "revision": revision,
            "r": stored.rank,
            "lora_alpha": stored.scaling * stored.rank,
            "target_modules": list(stored.targets),
            "lora_dropout": 0.0,
            "use_dora": stored.has_magnitudes,
            "bias": "none",
            "inference_mode": True,
        },
    )
    for name in (WEIGHTS, CONFIG):  # safetensors makes its files private
        (target / name).chmod(0o644)
    return stored
