"""Decoder layers that add to the residual stream and norm the sum in one kernel, on a GPU.

A sum is made where it is known which norm reads it next, of the same layer, of the next one or the last of all, and
carries what that norm gives.  The norm takes it from there; of any other tensor it computes its own.  Where what is
added comes from a matrix with an update in float32, of few ranks, that is added by the same kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from harness.engine.model.linear import PackedLinear
from harness.engine.model.precision import LOW

#: What a layer is made of whose forward is the one written here.
PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
#: The attribute of a sum: a norm, and what it gives.  A pass that stops leaves nothing behind but what it drops.
CARRIED = "_carried"
#: A module, and the name of the projection that it ends with; empty where that is not to be looked at.
End = tuple[nn.Module, str]
#: Ranks up to which a kernel that waits for memory has time for an update without tensor cores.
FEW_RANKS = 16


def use_sums(model: nn.Module, kernels: ModuleType) -> None:
    """Where all layers of a decoder are known their forward is the one with the kernel; else their own."""
    for decoder in model.modules():
        layers, last = [*getattr(decoder, "layers", ())], getattr(decoder, "norm", None)
        if layers and _known(layers, last):
            behind = [*(layer.input_layernorm for layer in layers[1:]), last]
            for layer, norm in zip(layers, behind, strict=True):
                # The last feed-forward layer may be asked for some places alone, and give zeros in others
                ends = (layer.self_attn, "o_proj"), (layer.mlp, "" if layer is layers[-1] else "down_proj")
                layer.forward = partial(_forward, kernels, layer, norm, *ends)
                for reader in (layer.post_attention_layernorm, norm):
                    reader.forward = partial(_carried, reader, reader.forward)


def _known(layers: Sequence[Any], last: Any) -> bool:
    if any({name for name, _ in layer.named_children()} != PARTS for layer in layers):
        return False
    norms = [last, *(norm for layer in layers for norm in (layer.input_layernorm, layer.post_attention_layernorm))]
    return all(hasattr(norm, "variance_epsilon") for norm in norms)


def _forward(
    kernels: ModuleType, layer: Any, norm: Any, attention: End, feed_forward: End, hidden_states: Tensor, **given: Any
) -> Tensor:
    """As Llama's layer; ``norm`` reads what it returns."""

    def attend() -> Tensor:
        return layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **given)[0]

    total = _add(kernels, attend, attention, hidden_states, layer.post_attention_layernorm)
    return _add(kernels, lambda: layer.mlp(layer.post_attention_layernorm(total)), feed_forward, total, norm)


def _add(kernels: ModuleType, part: Callable[[], Tensor], of: End, residual: Tensor, norm: Any) -> Tensor:
    """What ``part`` gives + residual, with what the norm will be asked for."""
    few, about = _few(*of), (residual, norm.weight, norm.variance_epsilon)
    if few is None:
        normed, total = kernels.add_norm(part(), *about)
    else:
        assert not torch.is_grad_enabled(), "float32 factors on a base of 16 bits infer"
        end, a, b = few
        x, states = _without_update(part, end)
        rows, *others = (each.reshape(len(a), -1, each.shape[-1]).contiguous() for each in (states, x, residual))
        sums = kernels.add_updated_norm(others[0], kernels.down_states(rows, a), b, others[1], *about[1:])
        normed, total = (each.view_as(residual) for each in sums)
    setattr(total, CARRIED, (norm, normed))
    return total


def _few(module: nn.Module, name: str) -> tuple[PackedLinear, Tensor, Tensor] | None:
    """This projection, with its factors, where they are in float32, of few ranks, and all that is done to it; None,
    too, where a hook would see what has no update yet.
    """
    end = getattr(module, name, None)
    if not isinstance(end, PackedLinear) or end.change is None or end.weight.dtype not in LOW:
        return None
    if end._forward_hooks or module._forward_hooks:
        return None
    factors = end.change.low_rank
    if factors is None or factors[0].dtype is not torch.float32 or factors[1].shape[2] > FEW_RANKS:
        return None
    return end, *factors


def _without_update(part: Callable[[], Tensor], end: PackedLinear) -> tuple[Tensor, Tensor]:
    """What ``part`` gives but for the update of the projection that it ends with, and the states that this read."""
    end.defers = True
    try:
        x, states = part(), end.states
    finally:
        end.defers, end.states = False, None
    assert states is not None
    return x, states


def _carried(norm: nn.Module, own: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    of, normed = vars(x).pop(CARRIED, (None, None))
    return normed if of is norm else own(x)
