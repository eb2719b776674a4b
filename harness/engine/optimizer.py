"""What a study says to every optimizer, and the clip of K rows at once.

Same arithmetic as ``clip_grad_norm_`` on each row alone (parity-tested).  The optimizer itself is a part of the recipe
(:class:`harness.method.parts.Optimizer`).  No value is read back to the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class OptimizerSettings:
    """Decoupled weight decay, and the clip of one row's whole gradient."""

    weight_decay: float = 0.0
    clip: float = 1.0


def clipped(gradient: Tensor, rate: Tensor, active: Tensor, limit: float) -> tuple[Tensor, Tensor, Tensor]:
    """(gradient [K, P] with norms of at most ``limit``, rate [K, S], norms [K] before the clip).

    Gradient and rate are 0 in rows that are not ``active`` [K], and in those with a norm or a rate that is not finite
    (``torch.where``, since NaN * 0 is NaN).
    """
    norm = torch.linalg.vector_norm(gradient, dim=1)
    usable = active & norm.isfinite() & rate.isfinite().all(1)
    coefficient = (limit / (norm + 1e-6)).clamp(max=1.0)
    gradient = torch.where(usable[:, None], gradient * coefficient[:, None], 0.0)
    return gradient, torch.where(usable[:, None], rate, 0.0), norm
