"""This project's own Triton kernels, for a GPU: what LoRA of many trials needs, and libraries are slow at.

Whether they run on a device is tried first (:mod:`harness.engine.model.try_kernels`).
"""

from __future__ import annotations

from harness.engine.model.kernels.adamw import adamw
from harness.engine.model.kernels.cross_entropy import cross_entropy
from harness.engine.model.kernels.gated import gated, gated_back, gated_in_three
from harness.engine.model.kernels.likelihood import likelihoods
from harness.engine.model.kernels.norm import add_norm, rms_norm
from harness.engine.model.kernels.row_attention import row_attention
from harness.engine.model.kernels.tree_attention import tree_attention
from harness.engine.model.kernels.update import add_updates, down_in_three, down_states
from harness.engine.model.kernels.updated_norm import add_updated_norm

__all__ = [
    "adamw", "add_norm", "add_updated_norm", "add_updates", "cross_entropy", "down_in_three", "down_states", "gated",
    "gated_back", "gated_in_three", "likelihoods", "rms_norm", "row_attention", "tree_attention",
]  # fmt: skip
