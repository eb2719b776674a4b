"""Stacked low-rank adapters: the factors of K trials in one flat tensor.

Every trainable number of every trial lies in one fp32 tensor ``[K, P]``: row k is trial k, and its columns are all A
factors, then all B factors, sorted by size so that factors of equal shape are neighbours.  That makes clip, AdamW,
shrink and average a handful of elementwise kernels for the whole pack, whatever the number of matrices, and norms per
matrix one reduction per distinct shape.  The forward pass sees each factor as a view; the gradient comes back as one
``cat``, the backward of the one ``split``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slot:
    """One adapted matrix W0 of shape [out_features, in_features]; ``module`` is its name in the model."""

    module: str
    out_features: int
    in_features: int

    @property
    def projection(self) -> str:
        """Its type: the last part of the name, ``q_proj``."""
        return self.module.rpartition(".")[2]

    @property
    def layer(self) -> str:
        """Its depth: the first number in the name, ``0`` in ``model.layers.0.self_attn.q_proj``; else ``-``."""
        return next((part for part in self.module.split(".") if part.isdigit()), "-")


@dataclass(frozen=True)
class Factor:
    """Where one factor lies in a row: A is [rank, in_features], B is [out_features, rank]."""

    slot: Slot
    name: str  # "A" or "B"
    shape: tuple[int, int]
    start: int

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Layout:
    """How a row of ``P`` numbers divides into the factors of all slots at one rank."""

    slots: tuple[Slot, ...]
    rank: int

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        shapes = {
            "A": [(self.rank * s.in_features, s, (self.rank, s.in_features)) for s in self.slots],
            "B": [(self.rank * s.out_features, s, (s.out_features, self.rank)) for s in self.slots],
        }
        found, start = [], 0
        for name in "AB":
            for size, slot, shape in sorted(shapes[name], key=lambda entry: entry[0]):  # stable: slot order is kept
                found.append(Factor(slot, name, shape, start))
                start += size
        return tuple(found)

    @property
    def size(self) -> int:
        """P: trainable numbers of one trial."""
        return sum(factor.size for factor in self.factors)

    @cached_property
    def a_size(self) -> int:
        """Columns taken by the A factors, which come first."""
        return sum(factor.size for factor in self.factors if factor.name == "A")

    @cached_property
    def _pairs(self) -> tuple[tuple[int, int], ...]:
        """For every slot, the positions of its A and B among ``factors``."""
        index = {(factor.slot.module, factor.name): i for i, factor in enumerate(self.factors)}
        return tuple((index[slot.module, "A"], index[slot.module, "B"]) for slot in self.slots)

    def split(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views (A [K, r, n], B [K, m, r]) of ``flat`` [K, P], one pair a slot, in slot order."""
        parts = flat.split([factor.size for factor in self.factors], dim=1)
        views = [part.unflatten(1, factor.shape) for part, factor in zip(parts, self.factors, strict=True)]
        return [(views[a], views[b]) for a, b in self._pairs]

    @cached_property
    def _runs(self) -> tuple[tuple[int, int, int], ...]:
        """(start, members, size) of every run of neighbouring factors of one size, A's before B's."""
        runs = []
        for (_, size), run in groupby(self.factors, key=lambda factor: (factor.name, factor.size)):
            members = list(run)
            runs.append((members[0].start, len(members), size))
        return tuple(runs)

    @cached_property
    def b_of_a(self) -> tuple[int, ...]:
        """For the A factors in the order they lie in a row, the position of each one's B among the B factors."""
        position = {factor.slot.module: i for i, factor in enumerate(self.factors[len(self.slots) :])}
        return tuple(position[factor.slot.module] for factor in self.factors[: len(self.slots)])

    def norms(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Frobenius norms of every A and every B of ``flat`` [K, P]: two tensors [K, slots], each in row order."""
        columns = [
            flat[:, start : start + members * size].unflatten(1, (members, size)).norm(dim=-1)
            for start, members, size in self._runs
        ]
        norms = torch.cat(columns, dim=1)
        return norms[:, : len(self.slots)], norms[:, len(self.slots) :]

    def scale_a_(self, flat: Tensor, by: Tensor) -> None:
        """Multiply every A of ``flat`` [K, P] in place by its entry of ``by`` [K, slots], in row order."""
        done = 0
        for start, members, size in self._runs:
            if start < self.a_size:
                view = flat[:, start : start + members * size].unflatten(1, (members, size))
                view.mul_(by[:, done : done + members, None])
                done += members

    def initial(self, seed: int) -> Tensor:
        """One row [P] at its start: A ~ U(-1/sqrt(n), 1/sqrt(n)), B = 0.

        That is PEFT's default, ``kaiming_uniform_(a=sqrt(5))``.  Drawn on the CPU, slot by slot, so that a seed means
        the same numbers on every device and in every pack.
        """
        generator = torch.Generator().manual_seed(seed)
        row = torch.zeros(self.size)
        starts = {factor.slot.module: factor for factor in self.factors if factor.name == "A"}
        for slot in self.slots:
            factor, bound = starts[slot.module], slot.in_features**-0.5
            draw = torch.rand(factor.size, generator=generator)
            row[factor.start : factor.start + factor.size] = (2 * draw - 1) * bound
        return row


class AdapterBank:
    """The adapters of K trials: ``values`` [K, P] in fp32, and each trial's scaling alpha / r."""

    def __init__(self, layout: Layout, seeds: Sequence[int], scaling: Sequence[float], device: torch.device) -> None:
        rows = {seed: layout.initial(seed) for seed in dict.fromkeys(seeds)}
        self.layout = layout
        self.values = torch.stack([rows[seed] for seed in seeds]).to(device)
        self.scaling = torch.tensor(scaling, dtype=torch.float32, device=device)

    @property
    def trials(self) -> int:
        return self.values.shape[0]


def factors_for_forward(
    layout: Layout, values: Tensor, scaling: Tensor, dtype: torch.dtype
) -> list[tuple[Tensor, Tensor]]:
    """(A, scaling * B) of every slot, cast once for all matrices to this dtype; differentiable in ``values``."""
    a, b = values.split([layout.a_size, layout.size - layout.a_size], dim=1)
    return layout.split(torch.cat([a, b * scaling[:, None]], dim=1).to(dtype))
