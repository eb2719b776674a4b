"""Norms, rotary embeddings and gated feed-forward layers as one kernel each, on a GPU: by liger-kernel, and by ours.

They are 60 % of the time that a card is busy with a small model: on an H200 a step of 10 trials of 135M takes 21.8 ms
with them instead of 32.7.  Each computes in float32 and rounds once, as transformers' own do for a norm.  Ours are the
norms, the sums that they read, and gates of layers that have factors; the rest is liger-kernel's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from harness.engine.model.gated import use_gates
from harness.engine.model.residuals import use_sums
from harness.engine.model.try_kernels import kernels_for

#: Families in which it was compared with the plain operations (tests/parity/test_fused.py).
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
#: The names of what the kernels of a gate compute, liger's and ours.  Neither looks at a model's ``hidden_act``.
SILU = ("silu", "swish")


class Swap(NamedTuple):
    """What stands in the place of a module's function while a model runs."""

    module: Any
    name: str
    function: Callable[..., Any]


def fuse(model: nn.Module) -> tuple[Sequence[Swap], str]:
    """Put the kernels into a model on a GPU: what to swap while it runs, and what is not fused and why, if anything."""
    config = cast(Any, model).config
    family = str(config.model_type)
    if next(model.parameters()).device.type != "cuda":
        return (), "not on a GPU"
    if family not in FAMILIES:
        return (), f"no fused kernels for the family {family}"
    gates = config.hidden_act in SILU
    modeling = import_module(type(model).__module__)
    kept = dict(vars(modeling))
    try:
        logging.getLogger("liger_kernel").setLevel(logging.ERROR)  # it lists what else could be installed
        liger, rope = import_module("liger_kernel.transformers"), import_module("liger_kernel.transformers.rope")
        apply = getattr(liger, f"apply_liger_kernel_to_{family}")
        if failed := _fails(liger.LigerRMSNorm, _like(model)):
            return (), f"liger-kernel: {failed}"
        kernels = kernels_for(next(model.parameters()).device)
        apply(
            rope=False, cross_entropy=False, fused_linear_cross_entropy=False, rms_norm=not kernels, swiglu=gates,
            model=model,
        )  # fmt: skip
        if kernels:
            _use_norms(model, kernels)
            use_sums(model, kernels)
            if gates:
                use_gates(model, kernels)
    except (ImportError, AttributeError) as error:  # not installed, without Triton, or another version
        return (), f"liger-kernel: {error}"
    finally:  # it changes the classes for models to come as well, on whatever device
        for name, value in kept.items():
            setattr(modeling, name, value)
    why = "" if gates else f"no fused gates for the activation {config.hidden_act}"
    return (Swap(modeling, "apply_rotary_pos_emb", partial(rotated, rope.liger_rotary_pos_emb)),), why


def rotated(
    rotate: Callable[..., Sequence[Tensor]], q: Tensor, k: Tensor, cos: Tensor, sin: Tensor
) -> Sequence[Tensor]:
    """``rotate`` of queries and keys [R, heads, T, d], as of one row of R T tokens where each has its own positions.

    liger-kernel's is compiled anew for every number of rows, and rows of scores and answers come in sixty: 10 s of a
    campaign on an H200.
    """
    rows, _, length, width = q.shape
    if len(cos) != rows:  # all rows have the same
        return rotate(q, k, cos, sin)
    one = [x.transpose(1, 2).reshape(1, rows * length, -1, width).transpose(1, 2) for x in (q, k)]
    both = rotate(*one, cos.flatten(0, 1)[None], sin.flatten(0, 1)[None])
    return tuple(x.transpose(1, 2).view(rows, length, -1, width).transpose(1, 2) for x in both)


def _use_norms(model: nn.Module, kernels: ModuleType) -> None:
    for norm in model.modules():
        if hasattr(norm, "variance_epsilon"):
            norm.forward = partial(kernels.rms_norm, weight=norm.weight, eps=norm.variance_epsilon)


def _like(model: nn.Module) -> Tensor:
    return next(model.parameters())


def _fails(norm: Callable[..., nn.Module], like: Tensor) -> str:
    """Why a kernel can't be compiled and run on this device (no compiler, a GPU that Triton doesn't know), or empty."""
    try:
        norm(64).to(like.device, like.dtype)(torch.zeros(2, 64, device=like.device, dtype=like.dtype))
    except Exception as error:  # Triton and its backends raise what they like
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return ""
