"""Trials that are asked the same, with what is scored of them stacked, so that one pass answers for all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from harness.engine.adapters.layout import DenseLayout, Layout
from harness.engine.rows import ScoredWeights
from harness.study.plan import PlannedTrial


@dataclass(frozen=True)
class Group:
    """``values`` [K, P] with ``scaling`` [K] are what is scored of ``trials``; ``key`` is what they have in common."""

    key: Any
    trials: list[PlannedTrial]
    layout: Layout | DenseLayout
    values: torch.Tensor
    scaling: torch.Tensor


def grouped(
    scored: Iterable[tuple[PlannedTrial, ScoredWeights]], key: Callable[[PlannedTrial], Hashable] = lambda trial: None
) -> Iterator[Group]:
    """Those of equal key and layout together, in the order in which they come."""
    groups: dict[tuple[Any, Layout | DenseLayout], list[tuple[PlannedTrial, ScoredWeights]]] = {}
    for trial, weights in scored:
        groups.setdefault((key(trial), weights.layout), []).append((trial, weights))
    for (shared, layout), members in groups.items():
        values = torch.stack([weights.values for _, weights in members])
        scaling = torch.tensor([weights.scaling for _, weights in members], device=values.device)
        yield Group(shared, [trial for trial, _ in members], layout, values, scaling)
