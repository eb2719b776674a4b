"""Decoder layers that add to the residual stream and norm the sum in one kernel, on a GPU.

A sum is made where it is known which norm reads it next, of the same layer, of the next one or the last of all, and
carries what that norm gives.  The norm takes it from there; of any other tensor it computes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

from torch import Tensor, nn

#: What a layer is made of whose forward is the one written here.
PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
#: The attribute of a sum: a norm, and what it gives.  A pass that stops leaves nothing behind but what it drops.
CARRIED = "_carried"


def use_sums(model: nn.Module, kernels: ModuleType) -> None:
    """Where all layers of a decoder are known their forward is the one with the kernel; else their own."""
    for decoder in model.modules():
        layers, last = [*getattr(decoder, "layers", ())], getattr(decoder, "norm", None)
        if layers and _known(layers, last):
            behind = [*(layer.input_layernorm for layer in layers[1:]), last]
            for layer, norm in zip(layers, behind, strict=True):
                layer.forward = partial(_forward, kernels, layer, norm)
                for reader in (layer.post_attention_layernorm, norm):
                    reader.forward = partial(_carried, reader, reader.forward)


def _known(layers: Sequence[Any], last: Any) -> bool:
    if any({name for name, _ in layer.named_children()} != PARTS for layer in layers):
        return False
    norms = [last, *(norm for layer in layers for norm in (layer.input_layernorm, layer.post_attention_layernorm))]
    return all(hasattr(norm, "variance_epsilon") for norm in norms)


def _forward(kernels: ModuleType, layer: Any, norm: Any, hidden_states: Tensor, **given: Any) -> Tensor:
    """As Llama's layer; ``norm`` is the one that reads what it returns."""
    mixed, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **given)
    total = _add(kernels, mixed, hidden_states, layer.post_attention_layernorm)
    return _add(kernels, layer.mlp(layer.post_attention_layernorm(total)), total, norm)


def _add(kernels: ModuleType, x: Tensor, residual: Tensor, norm: Any) -> Tensor:
    """x + residual, with what the norm will be asked for."""
    normed, total = kernels.add_norm(x, residual, norm.weight, norm.variance_epsilon)
    setattr(total, CARRIED, (norm, normed))
    return total


def _carried(norm: nn.Module, own: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    of, normed = vars(x).pop(CARRIED, (None, None))
    return normed if of is norm else own(x)
