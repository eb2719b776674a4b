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


#: Numbers of a tensor that a CPU updates at a time, so that they stay in its cache from one operation to the next: six
#: trials of 135M take 36 ms instead of 105.
BLOCK = 2**20


class BoundAdamW(BoundOptimizer):
    """Decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101), on the flat [K, P] tensors of a bank."""

    def __init__(self, rows: Sequence[AdamW], bank: AdapterBank[Any], weight_decay: float) -> None:
        values = bank.values
        self.betas, self.eps = rows[0].betas, rows[0].eps  # in the pack_key: the same for every row
        self.weight_decay = weight_decay
        self.sections = list(bank.layout.sections)
        self._blocks = _blocks(self.sections, BLOCK // len(values) if values.device.type == "cpu" else values.shape[1])
        ratios = [[1.0, row.b_ratio][: len(self.sections)] for row in rows]
        self.ratios = torch.tensor(ratios, device=values.device)
        # In float64 on the device: the corrections of the bias are what Python's floats would make of the same count.
        self.step_count = torch.zeros((), dtype=torch.float64, device=values.device)
        self.mean = torch.zeros_like(values)
        self.square = torch.zeros_like(values)

    def step(self, bank: AdapterBank[Any], gradient: Tensor, rate: Tensor) -> None:
        self.step_count += 1
        beta1, beta2 = self.betas
        corrected, keep, root = self.of_step(rate)
        sizes = [size for _, size in self._blocks]
        tensors = (tensor.split(sizes, dim=1) for tensor in (bank.values, self.mean, self.square, gradient))
        for (i, _), value, mean, square, part in zip(self._blocks, *tensors, strict=True):
            mean.lerp_(part, 1 - beta1)
            square.mul_(beta2).addcmul_(part, part, value=1 - beta2)
            if self.weight_decay:
                value.mul_(keep[:, i : i + 1])
            value.sub_(corrected[:, i : i + 1] * mean / (square.sqrt() / root).add_(self.eps))

    def of_step(self, rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For the step that is counted: the rate [K, S] with the correction of the mean's bias, what decay leaves of a
        value [K, S], and the root [] of the correction of the square's bias.
        """
        beta1, beta2 = self.betas
        corrected = rate / (1 - beta1**self.step_count)
        return corrected, 1 - rate * self.weight_decay, (1 - beta2**self.step_count) ** 0.5

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "square": self.square, "step_count": self.step_count}


def _blocks(sections: Sequence[int], width: int) -> list[tuple[int, int]]:
    """(section, its columns) of each block, of about ``width`` columns but at a section's end."""
    width = max(1024, width // 1024 * 1024)
    return [(i, min(width, size - at)) for i, size in enumerate(sections) for at in range(0, size, width)]
