"""What the device can do at most, measured in the same process, and the tokens a second that this allows.

The roof of training LoRA on a frozen model is the longer of two times a token:

- arithmetic: 4 FLOPs a weight below the head (2 forward, 2 back to the token before; the frozen weights get no
  gradient), 4 a weight of the head at the tokens that a loss is on, 6 a number of the adapter, and those of attention;
- bytes: activations that are read and written where everything elementwise is fused into as few kernels as possible,
  forward once and back twice that; weights are read once a step and count nothing.

Both at the rates that a large product and a large copy reach here.  Launches, the optimizer and padding are not in it.
A small model is bound by bytes, so its roof rises with the card's memory: that of a yardstick has the same everywhere.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from harness.perf.common import timed

#: The side of a square product, bytes of a copy, launches.
MATMUL = {"cuda": 8192, "cpu": 1024}
COPY_BYTES = {"cuda": 2 * 10**9, "cpu": 2 * 10**8}
LAUNCHES = {"cuda": 10_000, "cpu": 1_000}
REPEATS = 5
#: Bytes a second of the yardstick: what an H100 copies.  An H200 copies 4.2 TB/s.
YARDSTICK_GB_PER_SECOND = 3000.0


@dataclass(frozen=True)
class Ceilings:
    """Of a device: what a product in the base's dtype and a copy (read and written) reach, and what a launch takes."""

    matmul_tflops: float
    copy_gb_per_second: float
    launch_microseconds: float


def ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Medians of a few repetitions each, after one that is not counted."""
    side, size, launches = (table[device.type] for table in (MATMUL, COPY_BYTES, LAUNCHES))
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target, single = torch.empty_like(source), torch.zeros(1, device=device)

    def launch() -> None:
        for _ in range(launches):
            single.zero_()

    seconds = []
    for work in (lambda: left @ right, lambda: target.copy_(source), launch):
        work()
        seconds.append(statistics.median(timed(work, device) for _ in range(REPEATS)))
    return Ceilings(2 * side**3 / seconds[0] / 1e12, 2 * size / seconds[1] / 1e9, 1e6 * seconds[2] / launches)


@dataclass(frozen=True)
class Roof:
    """The least microseconds that a token of training takes, by arithmetic and by bytes, and tokens a second."""

    flop_microseconds: float
    byte_microseconds: float
    yardstick_byte_microseconds: float

    @property
    def tokens_per_second(self) -> float:
        return 1e6 / max(self.flop_microseconds, self.byte_microseconds)

    @property
    def yardstick_tokens_per_second(self) -> float:
        return 1e6 / max(self.flop_microseconds, self.yardstick_byte_microseconds)

    def as_dict(self) -> dict[str, float]:
        rates = ("tokens_per_second", "yardstick_tokens_per_second")
        return {**asdict(self), **{rate: getattr(self, rate) for rate in rates}}


def roof(shape: Mapping[str, Any], found: Ceilings, *, rank: int, length: int, labelled: float) -> Roof:
    """Of a Llama of this ``shape``, rows of ``length`` tokens of which a share ``labelled`` is in the loss."""
    flops = flops_of_token(shape, rank=rank, length=length, labelled=labelled)
    kilobytes = bytes_of_token(shape, labelled) / 1e3
    return Roof(
        flops / found.matmul_tflops / 1e6, kilobytes / found.copy_gb_per_second, kilobytes / YARDSTICK_GB_PER_SECOND
    )


def flops_of_token(shape: Mapping[str, Any], *, rank: int, length: int, labelled: float) -> float:
    """Training FLOPs of a token, forward and back.  Attention is causal: a query sees half of its row on average."""
    d, inner, kv, layers = _sizes(shape)
    trunk = layers * (2 * d * d + 2 * d * kv + 3 * d * inner)
    adapter = layers * rank * (4 * d + 2 * (d + kv) + 3 * (d + inner))
    attention = layers * 3 * 2 * length * d  # 4 * length * d halved by the mask, and twice that back
    return 4 * trunk + 4 * labelled * shape["vocab_size"] * d + 6 * adapter + attention


def bytes_of_token(shape: Mapping[str, Any], labelled: float) -> float:
    """Bytes of a token's activations in bfloat16, forward and back.

    By layer: norms read and write d; q, k, v and attention read d and d + 2 kv and write as much, o, the sums behind it
    and behind the feed-forward part take eight d more; gate, up, their product and down read and write d and 6 inner.
    Logits of a labelled token are written and read, and so is their gradient.
    """
    d, inner, kv, layers = _sizes(shape)
    return 2 * (3 * layers * (16 * d + 4 * kv + 6 * inner) + 4 * labelled * shape["vocab_size"])


def parameters(shape: Mapping[str, Any]) -> int:
    """Weights of a model of this shape, without those of its norms."""
    d, inner, kv, layers = _sizes(shape)
    tables = 1 if shape["tie_word_embeddings"] else 2
    return layers * (2 * d * d + 2 * d * kv + 3 * d * inner) + tables * shape["vocab_size"] * d


def _sizes(shape: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """(hidden, intermediate, of keys, layers)."""
    d = shape["hidden_size"]
    kv = d // shape["num_attention_heads"] * shape["num_key_value_heads"]
    return d, shape["intermediate_size"], kv, shape["num_hidden_layers"]
