"""Variants of a trained adapter whose intruder dimensions are scaled.

    mitigated:  W0 + dW + (keep - 1) sum_j sigma_j u_j v_j^T      over the chosen intruders j of W0 + dW
    control:    W0 + c dW                                         of the same Frobenius norm over all matrices

Chosen are the first intruder of every matrix by singular value, as in the paper (arXiv 2410.21228, section 6), or all
among the top k, as in PEFT's ``reduce_intruder_dimension``, which also cuts the result to the adapter's rank again.
Here nothing is cut: every chosen direction is a rank of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.analysis.intruders import EPSILON, TOP_K
from harness.engine.adapters.files import StoredAdapter
from harness.engine.adapters.layout import Layout
from harness.engine.model.packed import PackedModel
from harness.engine.spectra import Spectra

#: Which intruders of a matrix are scaled.
Which = Literal["first", "all"]
#: At most how many those are.
WHICH: Mapping[Which, int] = {"first": 1, "all": TOP_K}
#: ``rescored``: the adapter as trained, scored beside its variants; what they change is against that.
Kind = Literal["rescored", "mitigated", "control"]
#: Module -> (sigma_j u_j [m, k], v_j [k, n]) of its chosen intruders.
Directions = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Variant:
    """Adapter values [P] to be scored; a control is ``shrunk_by`` a factor."""

    kind: Kind
    keep: float
    values: Tensor
    shrunk_by: float = 1.0


class Variants:
    """Makes variants of adapters; those of adapters of one rank have one layout, whatever else is asked."""

    def __init__(self, model: PackedModel, spectra: Spectra, which: Which) -> None:
        self.model, self.spectra, self.most = model, spectra, WHICH[which]
        self._layouts: dict[int, Layout] = {}

    def layout(self, rank: int) -> Layout:
        """That of variants of adapters of this rank: with room for the directions that are added."""
        return self._layouts.setdefault(rank, self.model.layout(rank + self.most))

    def chosen(self, stored: StoredAdapter) -> Directions:
        """The intruders of every matrix that are scaled; empty where the adapter has none."""
        values, layout = self._laid_out(stored), self.layout(stored.rank)
        measured = self.spectra.measure(layout, values[None], torch.ones(1, device=values.device))
        found = {}
        for i, (slot, (a, b)) in enumerate(zip(layout.slots, layout.split(values[None]), strict=True)):
            places = (measured.best[i, 0] < EPSILON).nonzero()[0][: self.most].tolist()
            if places:
                weight = self.spectra.of(slot).weights()[0] + b[0].double() @ a[0].double()
                u, sigmas, vh = torch.linalg.svd(weight, full_matrices=False)
                found[slot.module] = ((u[:, places] * sigmas[places]).float().cpu(), vh[places].float().cpu())
        return found

    def make(self, stored: StoredAdapter, directions: Directions, kind: Kind, keep: float) -> Variant:
        """The adapter with its directions kept so far, or the control of that."""
        trained, layout = self._laid_out(stored), self.layout(stored.rank)
        if kind == "rescored":
            return Variant(kind, keep, trained)
        values = trained.clone()
        for slot, (a, b) in zip(layout.slots, layout.split(values[None]), strict=True):
            if slot.module in directions:
                left, right = directions[slot.module]
                first, last = stored.rank, stored.rank + len(right)
                a[0, first:last], b[0, :, first:last] = right, (keep - 1) * left
        if kind == "mitigated":
            return Variant(kind, keep, values)
        factor = _norm(layout, values) / _norm(layout, trained)
        trained[layout.a_size :] *= factor
        return Variant(kind, keep, trained, factor)

    def _laid_out(self, stored: StoredAdapter) -> Tensor:
        """The adapter [P] in its layout, its scaling in B; directions and matrices that it lacks are zero."""
        rank, modules, layout = stored.rank, stored.modules, self.layout(stored.rank)
        values = torch.zeros(1, layout.size)
        for slot, (a, b) in zip(layout.slots, layout.split(values), strict=True):
            if slot.module in modules:
                a[0, :rank] = stored.tensors[f"{slot.module}.lora_A"]
                b[0, :, :rank] = stored.tensors[f"{slot.module}.lora_B"] * stored.scaling
        return values[0].to(self.model.device)


def _norm(layout: Layout, values: Tensor) -> float:
    """||dW||_F over all matrices."""
    pairs = layout.split(values[None].double())
    squares = sum((((b.mT @ b) * (a @ a.mT)).sum() for a, b in pairs), start=torch.zeros((), dtype=torch.float64))
    return float(squares.clamp(min=0).sqrt())
