"""Stacked low-rank adapters: the factors of K trials in one flat tensor.

Every trainable number of every trial lies in one fp32 tensor ``[K, P]``: row k is trial k, and its columns are all A
factors, then all B factors, sorted by size so that factors of equal shape are neighbours.  That makes clip, AdamW,
shrink and average a handful of elementwise kernels for the whole pack, whatever the number of matrices, and norms per
matrix one reduction per distinct shape.  The forward pass sees each factor as a view; the gradient comes back as one
``cat``, the backward of the one ``split``.

A :class:`DenseLayout` divides a row into full-size matrices instead.  Either may stand on something :class:`Below`:
what earlier tasks have left on the base, or what was taken off it at the start.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from harness.engine.model.linear import Change

#: The vector between B and A.
SPECTRUM = "spectrum"


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
    """Where one factor lies in a row: A is [rank, in_features], B [out_features, rank], a vector [its size, 1]."""

    slot: Slot
    name: str  # "A", "B", or that of a vector
    shape: tuple[int, int]
    start: int

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Below:
    """What lies on the base below the adapters of K trials and is not trained; W0 itself is never written to.

    ``values`` [K, P'] carry their scaling in B.  ``scales`` holds, where rows of W0 are scaled by a vector, the scale
    [K, m] of every slot.
    """

    layout: Layout | DenseLayout
    values: Tensor
    scales: tuple[Tensor, ...] = ()

    def changes(self, dtype: torch.dtype) -> list[Change]:
        return self.layout.changes(self.values, torch.ones_like(self.values[:, 0]), dtype)

    def row(self, row: int) -> Below:
        """What lies below one trial."""
        one = slice(row, row + 1)
        return Below(self.layout, self.values[one], tuple(scale[one] for scale in self.scales))


@dataclass(frozen=True)
class Layout:
    """How a row of ``P`` numbers divides into the factors of all slots at one rank, and into vectors beside them.

    A vector [m] is named after the field of :class:`~harness.engine.model.linear.Change` that it becomes
    (``magnitude``, ``scale``).  It is one of the whole matrix: what lies below counts as scaled by it, too.  The vector
    ``spectrum`` [rank] stands between B and A, and is a part of B wherever they are no longer trained (:meth:`plain`).
    """

    slots: tuple[Slot, ...]
    rank: int
    vectors: tuple[str, ...] = ()
    frozen: Below | None = field(default=None, compare=False, repr=False)

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        shapes = {
            "A": [(self.rank * s.in_features, s, (self.rank, s.in_features)) for s in self.slots],
            "B": [(self.rank * s.out_features, s, (s.out_features, self.rank)) for s in self.slots],
        }
        for name in self.vectors:
            sizes = [self.rank if name == SPECTRUM else slot.out_features for slot in self.slots]
            shapes[name] = [(size, slot, (size, 1)) for size, slot in zip(sizes, self.slots, strict=True)]
        factors, start = [], 0
        for name, entries in shapes.items():
            for size, slot, shape in sorted(entries, key=lambda entry: entry[0]):  # stable: slot order is kept
                factors.append(Factor(slot, name, shape, start))
                start += size
        return tuple(factors)

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

    @property
    def plain_layout(self) -> Layout:
        """The same with a spectrum multiplied into B."""
        return replace(self, vectors=tuple(name for name in self.vectors if name != SPECTRUM))

    def plain(self, values: Tensor) -> tuple[Layout, Tensor]:
        """(:attr:`plain_layout`, ``values`` [K, P] in it)."""
        if SPECTRUM not in self.vectors:
            return self, values
        layout = self.plain_layout
        whole = values.new_empty(len(values), layout.size)
        pairs = zip(layout.split(whole), self.split(values), self.vector(SPECTRUM, values), strict=True)
        for (a, b), (own_a, own_b), spectrum in pairs:
            a.copy_(own_a)
            b.copy_(own_b * spectrum[:, None, :])
        for name in layout.vectors:
            for vector, own in zip(layout.vector(name, whole), self.vector(name, values), strict=True):
                vector.copy_(own)
        return layout, whole

    def vector(self, name: str, flat: Tensor) -> list[Tensor]:
        """Views [K, its size] of the vectors of this name in ``flat`` [K, P], one a slot, in slot order.

        They lie side by side and are divided at once: the way back through a slice of ``flat`` writes all of it.
        """
        own = [factor for factor in self.factors if factor.name == name]
        whole = flat[:, own[0].start : own[-1].start + own[-1].size]
        parts = whole.split([factor.size for factor in own], dim=1)
        views = {factor.slot.module: part for factor, part in zip(own, parts, strict=True)}
        return [views[slot.module] for slot in self.slots]

    def dense(self) -> DenseLayout:
        """That of a full matrix for every slot, on the same below."""
        return DenseLayout(self.slots, self.frozen)

    @property
    def sections(self) -> tuple[int, ...]:
        """Widths of the neighbouring columns that may have different rates: those of A, then the others."""
        return (self.a_size, self.size - self.a_size)

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
        position = {
            factor.slot.module: i for i, factor in enumerate(self.factors[len(self.slots) : 2 * len(self.slots)])
        }
        return tuple(position[factor.slot.module] for factor in self.factors[: len(self.slots)])

    def norms(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Frobenius norms of every A and every B of ``flat`` [K, P]: two tensors [K, slots], each in row order."""
        columns = [
            flat[:, start : start + members * size].unflatten(1, (members, size)).norm(dim=-1)
            for start, members, size in self._runs
        ]
        norms = torch.cat(columns, dim=1)
        return norms[:, : len(self.slots)], norms[:, len(self.slots) : 2 * len(self.slots)]

    def scale_a_(self, flat: Tensor, by: Tensor) -> None:
        """Multiply every A of ``flat`` [K, P] in place by its entry of ``by`` [K, slots], in row order."""
        done = 0
        for start, members, size in self._runs:
            if start < self.a_size:
                view = flat[:, start : start + members * size].unflatten(1, (members, size))
                view.mul_(by[:, done : done + members, None])
                done += members

    def scaled(self, values: Tensor, scaling: Tensor) -> Tensor:
        """``values`` [K, P] with the scaling [K] of each trial in its B, so that B A needs no factor.

        Where the rows of what lies below are scaled, B is divided by that: diag(c) (W0 + ...) + B A is
        diag(c) (W0 + ... + B A / c), which the vector of the upper adapter scales as a whole.
        """
        end = self.a_size + sum(self.rank * slot.out_features for slot in self.slots)
        a, b, others = values.split([self.a_size, end - self.a_size, self.size - end], dim=1)
        b = b * scaling[:, None]
        return torch.cat([a, b if self._below_b is None else b / self._below_b, others], dim=1)

    @cached_property
    def _below_b(self) -> Tensor | None:
        """The scale of the row below for every number of B, [K, columns of B]; None where rows are not scaled."""
        if self.frozen is None or not self.frozen.scales:
            return None
        scale = dict(zip(self.slots, self.frozen.scales, strict=True))
        order = self.factors[len(self.slots) : 2 * len(self.slots)]
        return torch.cat([scale[factor.slot].repeat_interleave(self.rank, dim=1) for factor in order], dim=1)

    def changes(self, values: Tensor, scaling: Tensor, dtype: torch.dtype) -> list[Change]:
        """What ``values`` [K, P] do to every matrix, with what is frozen below; differentiable in ``values``.

        All factors are cast to this dtype at once.
        """
        flat = self.scaled(values, scaling).to(dtype)
        pairs = self.split(flat)
        if SPECTRUM in self.vectors:
            between = self.vector(SPECTRUM, flat)
            pairs = [(a, b * each[:, None, :]) for (a, b), each in zip(pairs, between, strict=True)]
        vectors = {name: self.vector(name, values) for name in self.plain_layout.vectors}
        changes = [
            Change(a, b, **{name: views[i] for name, views in vectors.items()}) for i, (a, b) in enumerate(pairs)
        ]
        return stacked(self.frozen, changes, dtype)

    def live(self, values: Tensor, fixed: str | None = None) -> int:
        """How many of the numbers ``values`` [P] train: ranks whose row of A and column of B are zero do not.

        Nor does the factor that is ``fixed``, ``A`` or ``B``; None: both train.
        """
        zeros = [((a[0] == 0).all(1) & (b[0] == 0).all(0)).sum() for a, b in self.split(values[None])]
        idle = 0
        for slot, dead in zip(self.slots, torch.stack(zeros).tolist(), strict=True):  # read from the device at once
            stays = {"A": slot.in_features, "B": slot.out_features}[fixed] if fixed else 0
            each = slot.in_features + slot.out_features + (SPECTRUM in self.vectors)
            idle += dead * each + (self.rank - dead) * stays
        return self.size - idle

    def initial(self, seed: int) -> Tensor:
        """One row [P] at its start: A ~ U(-1/sqrt(n), 1/sqrt(n)), B = 0, vectors 0.

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


@dataclass(frozen=True)
class DenseLayout:
    """How a row of ``P`` numbers divides into a full matrix [m, n] for every slot."""

    slots: tuple[Slot, ...]
    frozen: Below | None = field(default=None, compare=False, repr=False)

    @cached_property
    def size(self) -> int:
        return sum(slot.out_features * slot.in_features for slot in self.slots)

    @property
    def sections(self) -> tuple[int, ...]:
        return (self.size,)

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views [K, m, n] of ``flat`` [K, P], one a slot, in slot order."""
        parts = flat.split([slot.out_features * slot.in_features for slot in self.slots], dim=1)
        shapes = [(slot.out_features, slot.in_features) for slot in self.slots]
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def low_rank(self, rank: int) -> Layout:
        """That of factors of this rank for every slot, on the same below."""
        return Layout(self.slots, rank, frozen=self.frozen)

    def scaled(self, values: Tensor, scaling: Tensor) -> Tensor:
        return values * scaling[:, None]

    def live(self, values: Tensor, fixed: str | None = None) -> int:
        return self.size

    def changes(self, values: Tensor, scaling: Tensor, dtype: torch.dtype) -> list[Change]:
        """What ``values`` [K, P] do to every matrix, with what is frozen below; differentiable in ``values``."""
        changes = [Change(dense=dense) for dense in self.split(self.scaled(values, scaling).to(dtype))]
        return stacked(self.frozen, changes, dtype)

    def initial(self, seed: int) -> Tensor:
        """One row [P] at its start: no change, whatever the seed."""
        return torch.zeros(self.size)


def stacked(below: Below | None, changes: list[Change], dtype: torch.dtype) -> list[Change]:
    """``changes`` on top of what lies below."""
    if below is None:
        return changes
    return [upper.on(lower) for lower, upper in zip(below.changes(dtype), changes, strict=True)]


def joined(below: Below | None, layout: Layout | DenseLayout, values: Tensor) -> Below:
    """``values`` [K, P], which carry their scaling, and what lies below them: ranks, or dense changes, add up.

    Factors on a dense change, as of a student on what its average has left, are multiplied out.
    """
    layout = replace(layout, frozen=None)
    if isinstance(layout, Layout):
        layout, values = layout.plain(values)
    if below is None:
        return Below(layout, values)
    if isinstance(layout, Layout) and isinstance(below.layout, DenseLayout):
        assert not layout.vectors, "vectors beside factors go with factors below"
        products = [b @ a for a, b in layout.split(values)]
        layout, values = below.layout, torch.cat([product.flatten(1) for product in products], dim=1)
    if isinstance(layout, DenseLayout) or isinstance(below.layout, DenseLayout):
        assert layout == below.layout, "what is frozen is what was scored, of one kind through a whole stream"
        return Below(layout, below.values + values)
    both = replace(layout, rank=below.layout.rank + layout.rank)
    whole = values.new_empty(len(values), both.size)
    pairs = zip(both.split(whole), below.layout.split(below.values), layout.split(values), strict=True)
    for (a, b), (below_a, below_b), (upper_a, upper_b) in pairs:
        a.copy_(torch.cat([below_a, upper_a], 1))
        b.copy_(torch.cat([below_b, upper_b], 2))
    for name in both.vectors:  # the upper ones are those of the whole
        for vector, upper in zip(both.vector(name, whole), layout.vector(name, values), strict=True):
            vector.copy_(upper)
    return Below(both, whole)
