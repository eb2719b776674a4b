"""The adapters of K trials in one tensor, as their layout divides it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import torch

from harness.engine.adapters.layout import DenseLayout, Layout, Slot
from harness.method.parts import Adapter

AnyLayout = TypeVar("AnyLayout", bound=Layout | DenseLayout)


def layout_of(adapter: Adapter, slots: tuple[Slot, ...], rank: int) -> Layout | DenseLayout:
    """How the trained numbers of one trial with this adapter lie in a row, in an arm of this ``rank``."""
    trained = adapter.factor_rank(rank, [(slot.out_features, slot.in_features) for slot in slots])
    return DenseLayout(slots) if trained is None else Layout(slots, trained, adapter.vectors)


class AdapterBank(Generic[AnyLayout]):
    """The adapters of K trials: ``values`` [K, P] in fp32, and each trial's scaling alpha / r.

    A part that works on factors alone may say so by ``AdapterBank[Layout]``.
    """

    def __init__(self, layout: AnyLayout, seeds: Sequence[int], scaling: Sequence[float], device: torch.device) -> None:
        self.layout = layout
        self.seeds = tuple(seeds)  #: of each trial, for parts that draw something of their own
        self.values = torch.empty(len(seeds), layout.size, device=device)
        self.scaling = torch.tensor(scaling, dtype=torch.float32, device=device)
        self.draw(seeds)

    @property
    def trials(self) -> int:
        return self.values.shape[0]

    def draw(self, seeds: Sequence[int]) -> None:
        """Put every row where its seed starts."""
        rows = {seed: self.layout.initial(seed) for seed in dict.fromkeys(seeds)}
        for values, seed in zip(self.values, seeds, strict=True):
            values.copy_(rows[seed])
