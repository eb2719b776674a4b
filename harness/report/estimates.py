"""Means with intervals over trials keyed by order and seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from harness.analysis.statistics import Estimate, Scale, stratified_mean

T = TypeVar("T")


def estimate(values: Mapping[tuple[str, int], float], scale: Scale = (None, None)) -> Estimate:
    """Stratified mean of at least one value keyed by (order, seed), with its interval inside the scale."""
    keys = sorted(values)
    return certain(stratified_mean([values[key] for key in keys], [key[0] for key in keys], scale=scale))


def certain(value: T | None) -> T:
    """The value, which cannot be None here: tells the type checker, and fails where that is broken."""
    assert value is not None
    return value
