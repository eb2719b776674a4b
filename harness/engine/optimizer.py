"""What a study says to every optimizer, the clip of K rows at once, and the update.

Same arithmetic as ``clip_grad_norm_`` on each row alone (parity-tested).  The optimizer itself is a part of the recipe
(:class:`harness.method.parts.Optimizer`).  No value is read back to the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.engine.adapters.bank import AdapterBank
from harness.engine.model.try_kernels import kernels_for
from harness.method.adamw import BoundAdamW
from harness.method.bound import BoundOptimizer

#: Numbers of a row that are added up first.
PART = 4096


@dataclass(frozen=True)
class OptimizerSettings:
    """Decoupled weight decay, and the clip of one row's whole gradient."""

    weight_decay: float = 0.0
    clip: float = 1.0


@dataclass(frozen=True)
class Clip:
    """What a step does with the gradients [K, P] of K rows."""

    norm: Tensor  #: [K], before the clip
    coefficient: Tensor  #: [K], at most 1, of the gradient; 0 in a row that takes no step, whatever its gradient is
    rate: Tensor  #: [K, S], 0 in such a row


def clip(gradient: Tensor, rate: Tensor, active: Tensor, limit: float) -> Clip:
    """To norms of at most ``limit``; rows that are not ``active`` [K], and those with a norm or a rate [K, S] that is
    not finite, take no step.
    """
    norm = norms(gradient)
    usable = active & norm.isfinite() & rate.isfinite().all(1)
    coefficient = torch.where(usable, (limit / (norm + 1e-6)).clamp(max=1.0), 0.0)
    return Clip(norm, coefficient, torch.where(usable[:, None], rate, 0.0))


def norms(rows: Tensor) -> Tensor:
    """[K], of rows [K, P].

    On a CPU in two stages: there torch adds up a long row one number after the other, and in float32 the norm of 106
    million comes out 1.2 % too small, that of 2.4 million by 4e-5.
    """
    if rows.device.type == "cpu":
        count = rows.shape[1] // PART
        parts = rows[:, : count * PART].unflatten(1, (count, PART))
        rows = torch.cat([torch.linalg.vector_norm(parts, dim=2), rows[:, count * PART :]], 1)
    return torch.linalg.vector_norm(rows, dim=1)


def update(optimizer: BoundOptimizer, bank: AdapterBank[Any], gradient: Tensor, clipped: Clip) -> None:
    """Let the optimizer change ``bank.values`` [K, P]; on a GPU a kernel takes the place of AdamW and of the clip.

    The ``gradient`` is overwritten.
    """
    kernels = kernels_for(gradient.device)
    if kernels and type(optimizer) is BoundAdamW:
        optimizer.step_count += 1
        rate, keep, root = optimizer.of_step(clipped.rate)
        kernels.adamw(
            bank.values, optimizer.mean, optimizer.square, gradient, clipped.coefficient, rate, keep, root.float(),
            optimizer.sections[0], optimizer.betas, optimizer.eps,
        )  # fmt: skip
        return
    taken = clipped.coefficient[:, None]
    # Filled, since NaN * 0 is NaN
    optimizer.step(bank, gradient.mul_(taken).masked_fill_(taken == 0, 0.0), clipped.rate)
