"""Clip and AdamW for K trials at once, with everything that differs between trials as a tensor [K].

Same arithmetic as ``clip_grad_norm_`` and ``torch.optim.AdamW`` on each trial alone (parity-tested), on the flat
[K, P] tensor of :mod:`harness.engine.adapters.layout`.  No value is read back to the host inside a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdamWSettings:
    """AdamW as torch defines it (decoupled weight decay), with the clip of one trial's whole gradient."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0


class PackedAdamW:
    """AdamW over rows; a row that is not ``active`` keeps its values, whatever its gradient or its rate is."""

    def __init__(self, values: Tensor, settings: AdamWSettings, sections: Sequence[int] | None = None) -> None:
        """``sections`` are the widths of neighbouring columns with rates of their own; none: one rate a row."""
        self.settings = settings
        self.sections = list(sections or values.shape[1:])
        # In float64 on the device: the corrections of the bias are what Python's floats would make of the same count.
        self.step_count = torch.zeros((), dtype=torch.float64, device=values.device)
        self.mean = torch.zeros_like(values)
        self.square = torch.zeros_like(values)

    @torch.no_grad()
    def step(self, values: Tensor, gradient: Tensor, rate: Tensor, active: Tensor) -> Tensor:
        """Update ``values`` [K, P] in place.  Returns the gradient norms [K].

        ``active`` is [K]; ``rate`` is [K], or [K, sections] where sections have rates of their own.

        Rows with a non-finite norm or rate are left alone as well (``torch.where``, since NaN * 0 is NaN).
        """
        norm = torch.linalg.vector_norm(gradient, dim=1)
        rate = rate.view(len(rate), -1)
        usable = active & norm.isfinite() & rate.isfinite().all(1)
        coefficient = (self.settings.clip / (norm + 1e-6)).clamp(max=1.0)
        gradient = torch.where(usable[:, None], gradient * coefficient[:, None], 0.0)
        rate = torch.where(usable[:, None], rate, 0.0)

        self.step_count += 1
        beta1, beta2 = self.settings.betas
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = (self.square.sqrt() / (1 - beta2**self.step_count) ** 0.5).add_(self.settings.eps)
        columns = [tensor.split(self.sections, dim=1) for tensor in (values, self.mean, denominator)]
        for i, (value, mean, below) in enumerate(zip(*columns, strict=True)):
            own = rate[:, i : i + 1]
            if self.settings.weight_decay:
                value.mul_(1 - own * self.settings.weight_decay)
            value.sub_(own / (1 - beta1**self.step_count) * mean / below)
        return norm

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "square": self.square, "step_count": self.step_count}

    def load(self, state: dict[str, Tensor]) -> None:
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.step_count.copy_(state["step_count"])
