"""What a model is tried with: random tokens, an adapter, and what the model itself says with and without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.engine.generate import LEAST_SHARED
from harness.engine.model.head import distance
from harness.engine.model.packed import PackedModel
from harness.engine.model.precision import in_float32

#: The base, and one adapter on it: rows that get the other's adapter show.
TRIALS, RANK = 2, 2
#: The entries of an adapter's B A, in units of those of the weight it changes: enough to be seen, in a model that still
#: works; one of half the size of the weights makes a real model multiply its rounding errors by fifty.
SIZE = 0.1
#: Two sequences, with a beginning that is worth sharing: 5 s of one CPU core for 135M parameters, once a model.
SEQUENCES, LENGTH, SHARED = 2, LEAST_SHARED + 8, LEAST_SHARED + 1
#: What rounding does in a model is measured: its embeddings are moved by this share of themselves, up or down.
SHAKE = 2.0**-20
#: Logits may be off by so many times what that does, within bounds.  In eighty families and SmolLM2 honest ones are off
#: by 0.1 to 0.8 times, those of a token read from a wrong place by 200 in an untrained model and by 20,000 in others.
TIMES, LEAST, MOST = 6.0, 1e-5, 1e-2


@dataclass(frozen=True)
class Material:
    """Random sequences with a common beginning, an adapter, and what the model itself says to them."""

    ids: Tensor  # [S, T]
    shared: int  # tokens that all sequences begin with
    factors: Mapping[str, tuple[Tensor, Tensor]]  # A [r, in] and B [out, r] by module
    wanted: Tensor  # [K, S, T, C]: logits of the base, and with the adapter in the weights
    tolerance: float  # largest distance at which logits count as equal


@torch.no_grad()
def prepare(packed: PackedModel, linears: Mapping[str, nn.Linear]) -> Material:
    """Draw tokens and an adapter, and ask the model itself; its projections must not be wrapped yet."""
    rng = np.random.default_rng(0)
    length = min(LENGTH, packed.max_length)
    reach = min(length, packed.window or length)
    shared = SHARED if reach == LENGTH else max(1, reach // 2)  # rows with branches are within a window
    tokens = _plain_tokens(packed)
    ids = rng.choice(tokens, (SEQUENCES, length))
    ids[:, :shared] = ids[0, :shared]
    ids[:, shared] = rng.choice(tokens, SEQUENCES, replace=len(tokens) < SEQUENCES)
    sequences = torch.from_numpy(ids).to(packed.device)
    factors = _draw(linears, torch.Generator().manual_seed(0))

    def logits() -> Tensor:
        with in_float32():
            return packed.module(input_ids=sequences, use_cache=False).logits

    base = logits()
    with _shaken(packed.module):
        noise = distance(logits().flatten(0, 1), base.flatten(0, 1))
    tolerance = min(max(LEAST, TIMES * noise), MOST)
    with _merged(packed.module, linears, factors):
        return Material(sequences, shared, factors, torch.stack([base, logits()]), tolerance)


@contextmanager
def _shaken(model: Any) -> Iterator[None]:
    """Within this context the embeddings are off in their last bits, in a way that is the same every time."""
    generator = torch.Generator().manual_seed(2)

    def shake(_: nn.Module, given: Any, output: Tensor) -> Tensor:
        signs = torch.randint(0, 2, output.shape, generator=generator) * 2 - 1
        return output * (1 + SHAKE * signs.to(output.device))

    hook = model.get_input_embeddings().register_forward_hook(shake)
    try:
        yield
    finally:
        hook.remove()


def _plain_tokens(packed: PackedModel) -> np.ndarray:
    """Tokens that have no special meaning to the model, unlike the one that pads; all where there are none."""
    config = packed.module.config.get_text_config().to_dict()
    named = [value for key, value in config.items() if key.endswith("_token_id")]
    special = {token for value in named for token in (value if isinstance(value, list) else [value])}
    plain = np.array([token for token in range(packed.vocabulary) if token not in special])
    return plain if len(plain) else np.arange(packed.vocabulary)


def _draw(linears: Mapping[str, nn.Linear], generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of one adapter by module."""
    factors = {}
    for name, linear in linears.items():
        out, into = linear.weight.shape
        a, b = torch.randn(RANK, into, generator=generator), torch.randn(out, RANK, generator=generator)
        size = linear.weight[:64].float().std() * SIZE / RANK**0.5
        factors[name] = (a.to(linear.weight.device), b.to(linear.weight.device) * size)
    return factors


class _Merged(nn.Module):
    """A linear layer with an adapter in its weight, for whoever calls it and for whoever reads its weight."""

    def __init__(self, linear: nn.Linear, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._parts = (linear.weight, linear.bias, a, b)

    @property
    def weight(self) -> Tensor:
        weight, _, a, b = self._parts
        return weight + b @ a

    @property
    def bias(self) -> Tensor | None:
        return self._parts[1]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@contextmanager
def _merged(
    model: nn.Module, linears: Mapping[str, nn.Linear], factors: Mapping[str, tuple[Tensor, Tensor]]
) -> Iterator[None]:
    """Within this context the model has the adapter in its weights; the base is not written to."""
    put(model, {name: _Merged(linear, *factors[name]) for name, linear in linears.items()})
    try:
        yield
    finally:
        put(model, linears)


def put(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Put modules in the places of those of the same names."""
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module)
