"""The base model's singular value decompositions: computed once a model, cached by the digest of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.analysis.intruders import (
    DenseChange,
    Measured,
    Spectrum,
    Turn,
    analyse,
    analyse_dense,
    spectrum,
    spectrum_on_host,
    summaries,
)
from harness.engine.adapters.layout import DenseLayout, Layout, Slot
from harness.engine.model.linear import Change
from harness.store.files import atomic_file
from harness.store.spectra import VERSION

Say = Callable[[str], None]
#: W - W0 [those, m, n] of some of the trials, in fp64.
Delta = Callable[[slice], Tensor]

#: Seconds of a CPU's thread for the SVD of a matrix [m, n], m > n, over m n^2: 4e-10 to 6e-10, from [576, 192] to
#: [2048, 2048].
SVD_SECONDS = 5e-10


class Matrices(Protocol):
    """What is needed of a model."""

    @property
    def slots(self) -> tuple[Slot, ...]: ...

    @property
    def device(self) -> torch.device: ...

    def weights(self) -> Iterator[tuple[Slot, Tensor]]: ...


class Spectra:
    """W0 = U D V^T of every slot, matrices of one shape together, and the intruders of adapters against it."""

    def __init__(self, model: Matrices, cache: Path, say: Say = lambda text: None) -> None:
        """From the file in ``cache`` that belongs to the model's weights, or made new, which ``say`` is told.

        Raises LorabenchError where the file can't be written.
        """
        self.slots = model.slots
        self._weights = [weight.detach() for _, weight in model.weights()]
        self._groups = _groups(model.slots)
        digest = _weights_digest(model)
        self.path = path = cache / f"{digest}.safetensors"
        spectra = _read(path, digest, model, self._groups, say)
        if spectra is None:
            say(announced(model))
            made = _make(path, digest, self._weights, self._groups)
            # As the next pack reads them: other strides and alignment change the last bits of what is made of them.
            spectra = _read(path, digest, model, self._groups, say) or [each.to(model.device) for each in made]
        self._spectra = spectra

    def intruders(
        self,
        layout: Layout | DenseLayout,
        values: Tensor,
        scaling: Tensor,
        modules: Sequence[Collection[str]] | None = None,
    ) -> list[dict | None]:
        """The summary (fields of ``store.records.Intruders``) of each of the K adapters ``values`` [K, P].

        ``scaling`` is [K].  ``modules`` are those that each adapts, where some leave slots alone; the means are over
        them.  None for an adapter with values that are not finite.
        """
        used = None
        if modules is not None:
            used = np.array([[slot.module in adapted for adapted in modules] for slot in self.slots])
        labels = [(slot.projection, slot.layer) for slot in self.slots]
        return summaries(self.measure(layout, values, scaling), labels, used)

    def measure(self, layout: Layout | DenseLayout, values: Tensor, scaling: Tensor) -> Measured:
        """Of every slot, in their order, and every adapter.

        Low rank takes the smaller problem, whatever the rank that has been stacked; other changes take the whole one.
        """
        values, scaling = values.detach(), scaling.double()
        if isinstance(layout, DenseLayout) and layout.frozen is None:
            return self._dense({i: partial(_scaled, whole, scaling) for i, whole in enumerate(layout.split(values))},
                               len(values))  # fmt: skip
        changes, parts, order = layout.changes(values.double(), scaling, torch.float64), [], []
        dense: dict[int, Delta] = {}
        for group, base in zip(self._groups.values(), self._spectra, strict=True):
            factors = [pair for i in group if (pair := changes[i].low_rank) is not None]
            # Where the ranks are as many as a matrix has, nothing is smaller than it.
            if len(factors) == len(group) and factors[0][0].shape[1] < base.d.shape[1]:
                a, b = (torch.stack(part) for part in zip(*factors, strict=True))
                parts.append(analyse(base, a, b))
                order += group
            else:
                dense |= {i: partial(_delta, changes[i], self._weights[i]) for i in group}
        if dense:
            parts.append(self._dense(dense, len(values)))
        return Measured.join(parts)[np.argsort([*order, *dense])]

    def _dense(self, deltas: Mapping[int, Delta], trials: int) -> Measured:
        """Of some of the slots."""
        each = self.each
        return analyse_dense([DenseChange(each[i], self._weights[i], trials, delta) for i, delta in deltas.items()])

    @property
    def each(self) -> list[Spectrum]:
        """The spectra of all slots, in their order, each as a stack of one."""
        placed = {
            i: base[place : place + 1]
            for group, base in zip(self._groups.values(), self._spectra, strict=True)
            for place, i in enumerate(group)
        }
        return [placed[i] for i in range(len(self.slots))]

    def of(self, slot: Slot) -> Spectrum:
        """The spectrum of one slot, as a stack of one."""
        for group, base in zip(self._groups.values(), self._spectra, strict=True):
            for place, i in enumerate(group):
                if self.slots[i] == slot:
                    return base[place : place + 1]
        raise KeyError(slot.module)


def make_file(model: Matrices, cache: Path, turn: Turn) -> None:
    """Put the decompositions of the model's weights where :class:`Spectra` reads them, if there is no such file.

    Each matrix in a ``turn``.  Raises LorabenchError where the file can't be written.
    """
    digest = _weights_digest(model)
    path = cache / f"{digest}.safetensors"
    if not path.exists():
        _make(path, digest, [weight.detach() for _, weight in model.weights()], _groups(model.slots), turn)


def _scaled(dense: Tensor, scaling: Tensor, trials: slice) -> Tensor:
    """A full-size change of some of the trials [K, m, n], in fp64."""
    return dense[trials] * scaling[trials, None, None]


def _delta(change: Change, weight: Tensor, trials: slice) -> Tensor:
    return change.of(trials).delta(weight)


def announced(model: Matrices) -> str:
    """What is said before matrices are decomposed."""
    return f"decomposing the base's {len(model.slots)} matrices, once a model: {_effort(model)}"


def _effort(model: Matrices) -> str:
    """What the decompositions will take, for a person: time on a CPU, and disk."""
    sizes = [sorted((slot.out_features, slot.in_features)) for slot in model.slots]
    gigabytes = sum(8 * n * (n + m + 1) for n, m in sizes) / 1e9  # U, D and V in fp64
    disk = f"{gigabytes:.1f} GB on disk" if gigabytes >= 0.1 else f"{max(1, 1000 * gigabytes):.0f} MB on disk"
    if model.device.type != "cpu":
        return disk
    seconds = SVD_SECONDS * sum(m * n**2 for n, m in sizes) / torch.get_num_threads()
    return f"about {max(1, seconds):.0f} s, {disk}" if seconds < 100 else f"about {seconds / 60:.0f} minutes, {disk}"


def _groups(slots: Sequence[Slot]) -> dict[tuple[int, int], list[int]]:
    """Shape -> the places of its slots."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, slot in enumerate(slots):
        groups.setdefault((slot.out_features, slot.in_features), []).append(i)
    return groups


def _make(
    path: Path,
    digest: str,
    weights: Sequence[Tensor],
    groups: dict[tuple[int, int], list[int]],
    turn: Turn | None = None,
) -> list[Spectrum]:
    """The decompositions, which are in the file now; of a GPU's matrices they are on the host."""
    spectra = []
    for group in groups.values():
        matrices = [weights[i] for i in group]
        if turn is None and matrices[0].device.type == "cpu":
            spectra.append(spectrum(torch.stack(matrices)))
        else:
            spectra.append(spectrum_on_host(matrices, turn or nullcontext))
    _write(path, digest, groups, spectra)
    return spectra


def _weights_digest(model: Matrices) -> str:
    sha = hashlib.sha256(VERSION.encode())
    for slot, weight in model.weights():
        sha.update(slot.module.encode() + str(weight.dtype).encode())
        sha.update(weight.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _read(
    path: Path, digest: str, model: Matrices, groups: dict[tuple[int, int], list[int]], say: Say
) -> list[Spectrum] | None:
    """The cached decompositions, or None: the file is missing, damaged, or of other weights than its name says."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt", device=str(model.device)) as file:
            if (file.metadata() or {}).get("weights") != digest:
                say("the cached decompositions are of other weights; they are made again")
                return None
            return [Spectrum(*(file.get_tensor(f"{m}x{n}.{part}").clone() for part in "udv")) for m, n in groups]
    except (SafetensorError, OSError):
        say("the cached decompositions are damaged; they are made again")
        return None


def _write(path: Path, digest: str, groups: dict[tuple[int, int], list[int]], spectra: Sequence[Spectrum]) -> None:
    tensors = {
        f"{m}x{n}.{part}": getattr(base, part).contiguous().cpu()
        for (m, n), base in zip(groups, spectra, strict=True)
        for part in "udv"
    }
    atomic_file(path, lambda temporary: save_file(tensors, temporary, metadata={"weights": digest}))
