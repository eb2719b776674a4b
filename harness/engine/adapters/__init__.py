"""The trained weights of K trials, how they lie in one tensor, and the files they become."""

from harness.engine.adapters.layout import AdapterBank, DenseLayout, Factor, Frozen, Layout, Slot, joined, stacked

__all__ = ["AdapterBank", "DenseLayout", "Factor", "Frozen", "Layout", "Slot", "joined", "stacked"]
