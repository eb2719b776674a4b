"""The trained weights of K trials, how they lie in one tensor, and the files they become."""

from harness.engine.adapters.bank import AdapterBank
from harness.engine.adapters.layout import Below, DenseLayout, Factor, Layout, Slot, joined, stacked

__all__ = ["AdapterBank", "Below", "DenseLayout", "Factor", "Layout", "Slot", "joined", "stacked"]
