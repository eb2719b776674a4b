"""Whether this project's own kernels run on a device: they are tried on small tensors, once a process.

They need Triton, a compiler and a GPU of a generation that both know; without them torch computes the same.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch

#: Largest error, as a share of the largest number: of an update in float32, and of a likelihood.
ROUNDING = 1e-5


def kernels_for(device: torch.device) -> ModuleType | None:
    """``harness.engine.model.kernels``, where it runs on this device."""
    return tried()[0] if device.type == "cuda" else None


@cache
def tried() -> tuple[ModuleType | None, str]:
    """(the kernels, why there are none) on this process's GPU: exactly one of them says something."""
    try:
        from harness.engine.model import kernels

        _compare(kernels, torch.device("cuda"))
    except Exception as error:  # Triton raises what it likes: its own errors, those of a compiler, of a driver
        said = str(error).strip()
        return None, f"{type(error).__name__}: {said.splitlines()[0] if said else 'nothing more is known'}"
    return kernels, ""


def _compare(kernels: ModuleType, device: torch.device) -> None:
    """Raises ArithmeticError where a kernel does not compute what torch does."""
    generator = torch.Generator().manual_seed(0)
    x, a, b, y = (
        torch.randn(*shape, generator=generator).to(device)
        for shape in ((2, 70, 96), (2, 5, 96), (2, 40, 5), (2, 70, 40))
    )
    x = x.bfloat16()
    wanted = y.double() + x.double() @ a.double().mT @ b.double().mT
    kernels.add_update(y, x, a, b)
    logits = y.flatten(1)
    peak, log_sum, likeliest = kernels.likelihoods(logits)
    off = (y - wanted).abs().max() / wanted.abs().max()
    off = torch.maximum(off, (peak + log_sum - logits.logsumexp(-1)).abs().max())
    if not (float(off) < ROUNDING and bool((likeliest == logits.argmax(-1)).all())):
        raise ArithmeticError(f"a kernel is wrong on this device by {float(off):.1g}")
