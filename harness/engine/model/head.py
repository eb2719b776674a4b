"""Where a model's decoder ends and its head begins, and what the head does to the logits: read from a run of it.

Names say too little: ``get_decoder()`` is the whole model in some families and its head in one, and ``logits_scaling``
divides in Granite and multiplies in HyperCLOVAX.  So the model reads a few tokens, and what gives its logits is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.engine.model.precision import in_float32
from harness.engine.model.verdict import REMEDY
from harness.errors import InputError

#: Largest distance (:func:`distance`) in float32 of logits made from the model's last states.
ROUNDING = 1e-4
_SCALES = re.compile(r"logit|scal|multiplier")


@dataclass(frozen=True)
class Head:
    """``logits = cap(factor * linear(decoder(ids)))``; ``cap(x) = softcap * tanh(x / softcap)`` where there is one."""

    decoder: nn.Module
    linear: nn.Linear
    factor: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] of hidden states [N, d]."""
        logits = self.linear(hidden)
        if self.factor != 1.0:
            logits = logits * self.factor
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


def distance(logits: Tensor, wanted: Tensor) -> float:
    """How far logits [n, V] are off at the worst place: root mean square, in units of the spread of the wanted ones."""
    spread = wanted.var(-1, correction=0).mean().sqrt()
    off = (logits - wanted).square().mean(-1).max().sqrt()
    value = float(off / spread.clamp(min=1e-30))
    return value if value == value else float("inf")


@dataclass
class _Seen:
    """What passed through a model in one forward pass."""

    states: dict[nn.Module, Tensor] = field(default_factory=dict)  #: last hidden states, by who returned them
    read: Tensor | None = None  #: what the head was given
    logits: Tensor | None = None


@torch.no_grad()
def find_head(model: Any) -> Head:
    """The decoder and the head of a causal language model.

    Raises InputError where the logits are not a multiple, capped or not, of the head's output on the last states.
    """
    family, linear = type(model).__name__, model.get_output_embeddings()
    if linear is None:
        raise InputError(f"{family} has no output embeddings, so its logits can't be computed apart", remedy=REMEDY)
    if type(linear) is not nn.Linear:
        raise InputError(
            f"{family} has a {type(linear).__name__} for its head, and only nn.Linear is taken", remedy=REMEDY
        )
    with in_float32():
        return _find(model, linear)


def _find(model: Any, linear: nn.Linear) -> Head:
    family, seen = type(model).__name__, _watch(model, linear)
    if seen.read is None or seen.logits is None:
        raise InputError(f"{family} does not use its output embeddings as its head", remedy=REMEDY)
    decoder = _decoder(model, seen)
    if decoder is None:
        raise InputError(f"{family}: no part of it returns what its head reads", remedy=REMEDY)
    wanted = seen.logits.flatten(0, -2)
    if not wanted.isfinite().all():
        raise InputError(f"the logits of {family} are not finite", remedy="check its weights; they may be damaged")
    states = seen.states[decoder].flatten(0, -2)
    heads = [Head(decoder, linear, factor, cap) for factor in _factors(model.config) for cap in _caps(model.config)]
    off = {head: distance(head.logits(states), wanted) for head in heads}
    best = min(heads, key=off.__getitem__)
    if not off[best] <= ROUNDING:
        raise InputError(
            f"{family}: what it does to its logits is not known here; they differ by {off[best]:.2g} of their spread",
            remedy=REMEDY,
        )
    return best


def _watch(model: Any, linear: nn.Linear) -> _Seen:
    seen = _Seen()

    def returned(module: nn.Module, _: Any, output: Any) -> None:
        states = getattr(output, "last_hidden_state", None)
        if isinstance(states, Tensor):
            seen.states[module] = states

    def read(_: nn.Module, given: tuple[Any, ...]) -> None:
        seen.read = given[0] if given else None

    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel) and part is not model]
    hooks = [part.register_forward_hook(returned) for part in parts]
    hooks.append(linear.register_forward_pre_hook(read))
    try:
        ids = torch.arange(3, 11, device=linear.weight.device)[None] % linear.weight.shape[0]
        seen.logits = model(input_ids=ids, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _decoder(model: Any, seen: _Seen) -> nn.Module | None:
    """Who returned the states that the head reads, or a multiple of them; ``get_decoder()`` if it is one of several."""
    assert seen.read is not None
    read = seen.read.flatten(0, -2)
    fitting = []
    for part, states in seen.states.items():
        flat = states.flatten(0, -2)
        if flat.shape == read.shape:
            multiple = (flat * read).sum() / flat.square().sum().clamp(min=1e-30)
            if distance(multiple * flat, read) <= ROUNDING:
                fitting.append(part)
    named = model.get_decoder()
    return named if named in fitting else next(iter(fitting), None)


def _factors(config: Any) -> list[float]:
    """What a logit may be multiplied with: 1, and every setting that is called a scale, or 1 over it."""
    text = config.get_text_config()
    named = {name for name in (*text.to_dict(), "logits_scaling", "logit_scale") if _SCALES.search(name)}
    values = [getattr(text, name, None) for name in sorted(named)]
    plain = [float(value) for value in values if isinstance(value, int | float) and value]
    return list(dict.fromkeys([1.0, *(each for value in plain for each in (value, 1 / value))]))


def _caps(config: Any) -> Iterator[float | None]:
    yield None
    text = config.get_text_config()
    for name in text.to_dict():
        value = getattr(text, name, None)
        if re.search("soft_?cap", name) and isinstance(value, int | float) and value:
            yield float(value)
