"""Whether this project's own kernels run on a device: they are tried on small tensors, once a process.

They need Triton, a compiler and a GPU of a generation that both know; without them torch computes the same.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

#: Largest error, as a share of the largest number: of an update in float32 and of a likelihood, and in bfloat16.
ROUNDING, HALF_ROUNDING = 1e-5, 2.0**-7


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
    halves = [tensor.bfloat16() for tensor in (a, b, y)]
    wanted = y.double() + x.double() @ a.double().mT @ b.double().mT
    kernels.add_updates([y], x, a, [b])
    logits = y.flatten(1)
    peak, log_sum, likeliest = kernels.likelihoods(logits)
    off = _off(y, wanted) / ROUNDING
    off = max(off, float((peak + log_sum - logits.logsumexp(-1)).abs().max()) / ROUNDING)
    off = max(off, _off_in_training(kernels, x, *halves))
    if not (off < 1 and bool((likeliest == logits.argmax(-1)).all())):
        raise ArithmeticError(f"a kernel is wrong on this device: {off:.1g} times what rounding allows")


def _off_in_training(kernels: ModuleType, x: Tensor, a: Tensor, b: Tensor, y: Tensor) -> float:
    """Of products in bfloat16, and of a norm there and back, in what rounding allows."""
    down, d_a = x.new_empty(*x.shape[:2], a.shape[1]), torch.empty_like(a)
    kernels.reduce(x, a, down)
    wanted = [(down, x.double() @ a.double().mT), (y, y.double() + down.double() @ b.double().mT)]
    kernels.expand(y, down, b.mT)
    kernels.outer(down, x, d_a)
    wanted.append((d_a, down.double().mT @ x.double()))
    weight = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype, device=x.device)
    leaf, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    normed, wanted_normed = kernels.rms_norm(leaf, weight, 1e-6), F.rms_norm(exact, weight.shape, weight.double(), 1e-6)
    (back,), (wanted_back,) = torch.autograd.grad(normed.sum(), leaf), torch.autograd.grad(wanted_normed.sum(), exact)
    wanted += [(normed, wanted_normed), (back, wanted_back)]
    return max(_off(*pair) for pair in wanted) / HALF_ROUNDING


def _off(found: Tensor, wanted: Tensor) -> float:
    """The largest error, as a share of the largest number."""
    return float((found - wanted).detach().abs().max() / wanted.detach().abs().max())
