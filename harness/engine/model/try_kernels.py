"""Whether this project's own kernels run on a device: they are tried on small tensors, once a process.

They need Triton, a compiler and a GPU of a generation that both know; without them torch computes the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.engine.model.precision import in_three

#: Largest error, as a share of the largest number, of what is computed in float32, and in bfloat16.
ROUNDING, HALF_ROUNDING = 1e-5, 2.0**-6

Kernel = Callable[..., Tensor]


def kernels_for(device: torch.device) -> ModuleType | None:
    """``harness.engine.model.kernels``, where it runs on this device."""
    return tried()[0] if device.type == "cuda" else None


@cache
def tried() -> tuple[ModuleType | None, str]:
    """(the kernels, why there are none) on this process's GPU: exactly one of them says something."""
    try:
        from harness.engine.model import kernels

        with torch.enable_grad():  # also where somebody infers
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
    update = x.double() @ a.double().mT @ b.double().mT
    wanted = y.double() + update
    kernels.add_updates([y], x, a, [b])
    off, twice = [_off(y, wanted) / ROUNDING], y.double() + update
    weight, total = torch.linspace(-1, 1, 40, device=device), twice + y.flip(1)
    for dtype, rounding in ((torch.float32, ROUNDING), (torch.bfloat16, HALF_ROUNDING)):
        stream, added, w = y.flip(1).to(dtype), y.to(dtype), weight.to(dtype)
        sums = kernels.add_updated_norm(added, kernels.down_states(x, a), b, stream, w, 1e-6)
        wanted = F.rms_norm(total, (40,), weight.double(), 1e-6), total
        off += [_off(found, right) / rounding for found, right in zip(sums, wanted, strict=True)]
    for states, rounding in ((y, ROUNDING), (y.bfloat16(), HALF_ROUNDING)):  # in float32 it shows what factors lose
        down = kernels.down_in_three(x, torch.cat([a, a], 1))
        opened = kernels.gated_in_three(states, states, down, *[in_three(b.mT.contiguous(), 1)] * 2)
        off.append(_off(opened, F.silu(twice) * twice) / rounding)
    off += _off_of_logits(kernels, y.flatten(1), ROUNDING)
    # Three blocks, the last not full; Triton compiles multiples of 16, as vocabularies are, apart from other widths
    blocks = torch.randn(2, 9008, generator=generator).to(device, torch.bfloat16)
    off += _off_of_logits(kernels, blocks, HALF_ROUNDING)
    off += _off_of_a_step(kernels, device)
    for rank in (5, 70):  # of one part, and of two
        off += [error / HALF_ROUNDING for error in _off_at_the_gate(kernels, x, rank)]
    off.append(_off_among_branches(kernels, x) / HALF_ROUNDING)
    for kernel, written, given, constants in _in_training(kernels, x):
        off += [error / HALF_ROUNDING for error in _off_there_and_back(kernel, written, given, constants)]
    if max(off) >= 1:
        raise ArithmeticError(f"a kernel is wrong on this device: {max(off):.1g} times what rounding allows")


def _off_of_logits(kernels: ModuleType, logits: Tensor, rounding: float) -> Iterator[float]:
    """Of likelihoods, of losses and of the gradient of their weighted sum, in units of what rounding allows."""
    exact = logits.double().requires_grad_()
    peak, log_sum, likeliest = kernels.likelihoods(logits)
    yield _off(peak + log_sum, exact.logsumexp(-1)) / ROUNDING
    yield float((likeliest != exact.argmax(-1)).sum())
    target = -torch.arange(len(logits), device=logits.device) % logits.shape[1]  # in the first block, and in the last
    weight = torch.linspace(0.1, 1, len(logits), device=logits.device)
    wanted = F.cross_entropy(exact, target, reduction="none")
    (back,) = torch.autograd.grad((wanted * weight).sum(), exact)
    gradient = logits.clone()
    yield _off(kernels.cross_entropy(gradient, target, weight), wanted) / ROUNDING
    yield _off(gradient, back) / rounding


def _off_of_a_step(kernels: ModuleType, device: torch.device) -> Iterator[float]:
    """Of what AdamW leaves in two blocks, in units of what rounding allows; the second of three trials has diverged."""
    generator = torch.Generator().manual_seed(1)
    width, first = 2112, 2080  # multiples of 16, as layers' are
    given = [torch.rand(3, width, generator=generator).to(device) for _ in range(4)]
    clip, rate, keep = (torch.rand(3, size, generator=generator).to(device) for size in (1, 2, 2))
    clip[1], given[3][1] = 0, torch.nan
    root, betas, eps = torch.tensor(0.5, device=device), (0.9, 0.99), 1e-8
    value, mean, square, gradient = (tensor.double() for tensor in given)
    gradient = torch.where(clip > 0, gradient * clip, 0.0)
    mean, square = mean.lerp(gradient, 1 - betas[0]), betas[1] * square + (1 - betas[1]) * gradient**2
    sizes = torch.tensor([first, width - first], device=device)
    rates, kept = (part.double().repeat_interleave(sizes, 1) for part in (rate, keep))
    wanted = kept * value - rates * mean / (square.sqrt() / root + eps), mean, square
    kernels.adamw(*given, clip[:, 0].contiguous(), rate, keep, root, first, betas, eps)
    yield from (_off(found, right) / ROUNDING for found, right in zip(given[:3], wanted, strict=True))


def _off_at_the_gate(kernels: ModuleType, x: Tensor, rank: int) -> Iterator[float]:
    """Of a gate behind updates in bfloat16, and of its way back, from autograd in float64."""
    generator = torch.Generator().manual_seed(rank)
    wide, of_b = (2, 70, 40), (2, 40, rank)
    shapes = (wide, wide, (2, 70, 2 * rank), of_b, of_b, wide, (2, 70, rank), (2, rank, 40))
    given = [torch.randn(*shape, generator=generator).to(x.device, torch.bfloat16) / 4 for shape in shapes]
    gate, up, down, b_gate, b_up, d_out, d_next, a_next = (tensor.double() for tensor in given)
    opening, passed = (
        (of + part @ b.mT).requires_grad_()
        for of, part, b in zip((gate, up), down.chunk(2, 2), (b_gate, b_up), strict=True)
    )
    wanted = F.silu(opening) * passed
    yield _off(kernels.gated(*given[:5]), wanted)
    backs = torch.autograd.grad(wanted, (opening, passed), d_out + d_next @ a_next)
    yield from map(_off, kernels.gated_back(*given[5:], *given[:5]), backs)


def _off_among_branches(kernels: ModuleType, x: Tensor) -> float:
    """Of attention in two rows of each of two trials, where answers stand side by side, some within others."""
    states, length = torch.cat([x, x.flip(1)]), x.shape[1]
    query, key = states.unflatten(-1, (6, 16)).transpose(1, 2), states[..., :32].unflatten(-1, (2, 16)).transpose(1, 2)
    last = torch.full((2, length), length)
    last[0, 32:64] = 64  # a whole block of keys is seen by none of those behind it
    last[1, 20:45], last[1, 25:33] = 45, 33
    last, at = last.to(x.device), torch.arange(length, device=x.device)
    seen = (at[:, None] >= at) & (at[:, None] < last[:, None])
    exact = (tensor.double() for tensor in (query, key, key.flip(2)))
    wanted = F.scaled_dot_product_attention(
        *exact, attn_mask=seen.repeat(2, 1, 1)[:, None], scale=0.25, enable_gqa=True
    )
    return _off(kernels.tree_attention(query, key, key.flip(2), last, 0.25), wanted)


def _in_training(kernels: ModuleType, x: Tensor) -> list[tuple[Kernel, Kernel, list[Tensor], tuple[Any, ...]]]:
    """(kernel, the same in torch, tensors that have a gradient, what else both take) of norms and of attention."""
    weight = torch.linspace(-1, 1, x.shape[-1], device=x.device)
    query, key = x.unflatten(-1, (6, 16)).transpose(1, 2), x[..., :32].unflatten(-1, (2, 16)).transpose(1, 2)
    starts = torch.tensor([[0, 23, x.shape[1]]] * len(x), device=x.device)

    def attention(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float) -> Tensor:
        rows = [slice(start, stop) for start, stop in itertools.pairwise(starts[0].tolist())]
        mixed = [
            F.scaled_dot_product_attention(
                query[:, :, row], key[:, :, row], value[:, :, row], is_causal=True, scale=scale, enable_gqa=True
            )
            for row in rows
        ]
        return torch.cat(mixed, 2)

    return [
        (lambda x: kernels.rms_norm(x, weight.to(x.dtype), 1e-6),
         lambda x: F.rms_norm(x, weight.shape, weight.to(x.dtype), 1e-6), [x], ()),
        (lambda x, y: torch.cat(kernels.add_norm(x, y, weight.to(x.dtype), 1e-6)),
         lambda x, y: torch.cat((F.rms_norm(x + y, weight.shape, weight.to(x.dtype), 1e-6), x + y)),
         [x, x.flip(1)], ()),
        (kernels.row_attention, attention, [query, key, key.flip(2)], (starts, 47, 0.25)),
    ]  # fmt: skip


def _off_there_and_back(
    kernel: Kernel, written: Kernel, given: list[Tensor], constants: tuple[Any, ...]
) -> Iterator[float]:
    """Of what a kernel computes, and of its gradients, from the same in float64."""
    leaves, exact = (
        [tensor.detach().to(dtype).requires_grad_() for tensor in given] for dtype in (given[0].dtype, torch.double)
    )
    found, wanted = kernel(*leaves, *constants), written(*exact, *constants)
    down = torch.linspace(-1, 1, found.numel(), dtype=torch.double, device=found.device).view_as(found)
    backs = torch.autograd.grad(found, leaves, down.to(found.dtype)), torch.autograd.grad(wanted, exact, down)
    yield _off(found, wanted)
    yield from map(_off, *backs)


def _off(found: Tensor, wanted: Tensor) -> float:
    """The largest error, as a share of the largest number; of NaN, infinite."""
    found, wanted = found.detach(), wanted.detach()
    return float(((found - wanted).abs().max() / wanted.abs().max()).nan_to_num(torch.inf, torch.inf))
