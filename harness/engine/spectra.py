"""The base model's singular value decompositions: computed once a model, cached by the digest of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from harness.analysis.intruders import MatrixResult, Spectrum, analyse, analyse_dense, spectrum, summarise_by
from harness.engine.adapters import DenseLayout, Layout
from harness.engine.model import PackedModel
from harness.store.files import atomic_file


class Spectra:
    """W0 = U D V^T of every slot, and the intruders of adapters against it."""

    def __init__(self, model: PackedModel, cache: Path) -> None:
        self.slots = model.slots
        path = cache / f"{_weights_digest(model)}.safetensors"
        found = _read(path, model)
        if found is None:
            found = [spectrum(weight) for _, weight in model.weights()]
            _write(path, model, found)
            # As the next pack reads them: other strides and alignment change the last bits of what is made of them.
            found = _read(path, model) or found
        self.each: list[Spectrum] = found  #: of every slot, in slot order
        self._weights = [weight for _, weight in model.weights()]

    def intruders(
        self, layout: Layout | DenseLayout, values: torch.Tensor, scaling: float, modules: Collection[str] | None = None
    ) -> dict:
        """The summary of one trial's adapter ``values`` [P] (fields of ``store.records.Intruders``).

        Low rank is counted by the smaller problem, whatever the rank that has been stacked.

        ``modules`` are those that it adapts, where it leaves some slots alone; the means are over them.
        """
        results: list[tuple[str, str, MatrixResult]] = []
        one = torch.tensor([scaling], device=values.device)
        changes = layout.changes(values[None], one, torch.float32)
        for slot, linear, base, change in zip(self.slots, self._weights, self.each, changes, strict=True):
            if modules is not None and slot.module not in modules:
                continue
            if change.low_rank is not None:
                a, b = change.low_rank
                found = analyse(base, a[0], b[0], 1.0)
            else:
                found = analyse_dense(base, linear, change.delta(linear)[0])
            results.append((slot.projection, slot.layer, found))
        return summarise_by(results)


def _weights_digest(model: PackedModel) -> str:
    sha = hashlib.sha256(b"thin svd fp64, v1")
    for slot, weight in model.weights():
        sha.update(slot.module.encode() + str(weight.dtype).encode())
        sha.update(weight.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _read(path: Path, model: PackedModel) -> list[Spectrum] | None:
    """The cached decompositions, or none where the file is missing or damaged (it is then made again)."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt", device=str(model.device)) as file:
            return [
                Spectrum(*(file.get_tensor(f"{slot.module}.{part}").clone() for part in "udv"))
                for slot, _ in model.weights()
            ]
    except (SafetensorError, OSError):
        return None


def _write(path: Path, model: PackedModel, spectra: list[Spectrum]) -> None:
    tensors = {
        f"{slot.module}.{part}": getattr(base, part).contiguous().cpu()
        for slot, base in zip(model.slots, spectra, strict=True)
        for part in "udv"
    }
    atomic_file(path, lambda temporary: save_file(tensors, temporary))
