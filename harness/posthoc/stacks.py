"""Adapters that were made elsewhere, as rows of packs: one of each kind, with the base in the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.engine.adapters.layout import Layout
from harness.engine.adapters.peft import PeftAdapter, stack_adapters, unchanged
from harness.engine.model.packed import PackedModel
from harness.scoring.bench import Bench
from harness.scoring.scorer import Score


@dataclass(frozen=True)
class Stack:
    """Adapters of one kind as the rows of a pack; in the first stack the base is row 0."""

    names: tuple[str, ...]
    layout: Layout
    values: Tensor  # [first + K, P]
    scaling: Tensor  # [K]
    first: int  #: rows before the adapters': 1 with the base, else 0


def stacks_of(adapters: Mapping[str, PeftAdapter], model: PackedModel) -> list[Stack]:
    """Plain adapters, then those with magnitudes: beside these a plain one would be computed otherwise."""
    stacks: list[Stack] = []
    for dora in (False, True):
        own = {name: adapter for name, adapter in adapters.items() if adapter.is_dora == dora}
        if own:
            layout, values, scaling = stack_adapters(list(own.values()), model)
            if not stacks:
                values = torch.cat([unchanged(layout, model).to(values), values])
            stacks.append(Stack(tuple(own), layout, values, scaling, len(values) - len(own)))
    return stacks


def score(
    bench: Bench, tasks: Sequence[str], stacks: Sequence[Stack], progress: Callable[[int], None]
) -> tuple[dict[str, Score] | None, dict[str, dict[str, Score] | None]]:
    """The scores of the base, and those of every adapter; None for log-probabilities that are not finite."""
    base, scores = None, {}
    for stack in stacks:
        ones = torch.ones(len(stack.values), device=stack.values.device)
        found = bench.scorer.score(tasks, stack.values, ones, progress, stack.layout)
        base = found[0] if stack.first else base
        scores |= dict(zip(stack.names, found[stack.first :], strict=True))
    return base, scores
