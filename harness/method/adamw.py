"""AdamW for K rows at once, with the arithmetic of ``torch.optim.AdamW`` on each alone (parity-tested)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.method.bound import BoundOptimizer
from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank
    from harness.method.parts import AdamW


class BoundAdamW(BoundOptimizer):
    """Decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101), on the flat [K, P] tensors of a bank."""

    def __init__(self, rows: Sequence[AdamW], bank: AdapterBank[Any], weight_decay: float) -> None:
        values = bank.values
        self.betas, self.eps = rows[0].betas, rows[0].eps  # in the pack_key: the same for every row
        self.weight_decay = weight_decay
        self.sections = list(bank.layout.sections)
        ratios = [[1.0, row.b_ratio][: len(self.sections)] for row in rows]
        self.ratios = torch.tensor(ratios, device=values.device)
        # In float64 on the device: the corrections of the bias are what Python's floats would make of the same count.
        self.step_count = torch.zeros((), dtype=torch.float64, device=values.device)
        self.mean = torch.zeros_like(values)
        self.square = torch.zeros_like(values)

    def step(self, bank: AdapterBank[Any], gradient: Tensor, rate: Tensor) -> None:
        self.step_count += 1
        beta1, beta2 = self.betas
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        corrected, keep, root = self.of_step(rate)
        denominator = (self.square.sqrt() / root).add_(self.eps)
        columns = [tensor.split(self.sections, dim=1) for tensor in (bank.values, self.mean, denominator)]
        for i, (value, mean, below) in enumerate(zip(*columns, strict=True)):
            if self.weight_decay:
                value.mul_(keep[:, i : i + 1])
            value.sub_(corrected[:, i : i + 1] * mean / below)

    def of_step(self, rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For the step that is counted: the rate [K, S] with the correction of the mean's bias, what decay leaves of a
        value [K, S], and the root [] of the correction of the square's bias.
        """
        beta1, beta2 = self.betas
        corrected = rate / (1 - beta1**self.step_count)
        return corrected, 1 - rate * self.weight_decay, (1 - beta2**self.step_count) ** 0.5

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "square": self.square, "step_count": self.step_count}
