"""Losses per scored token, computed chunk by chunk so that no [tokens, vocabulary] tensor is ever kept.

The head is frozen, so the gradient a loss sends back is that of the hidden states alone.  It is computed together with
the loss, one chunk of tokens at a time; the trunk then takes it with ``hidden.backward(gradient)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

import torch
from torch import Tensor

from harness.engine.model.head import Head

#: fp32 logits in flight at a time: 256 MiB on a GPU, which wants large kernels; 32 MiB on a CPU, which wants its cache.
CHUNK_LOGITS = {"cuda": 2**26, "cpu": 2**23}

#: A kernel reads logits as they are, and a gradient takes their place.  Four times as many are 512 MiB in 16 bits, half
#: of what copies and gradients in float32 are, and 1 GiB with a base in float32.  With a vocabulary of 150,000 that is
#: 1,700 tokens, enough for whole tiles of the head's products.
READ_BY_KERNEL = 4

#: (student logits [n, V] in fp32, token positions of this chunk as a slice) -> loss of each token [n].
TokenLoss = Callable[[Tensor, slice], Tensor]


def chunk_logits(device: torch.device, *, kernel: bool = False) -> int:
    """How many logits to hold at a time on this device, for torch's operations or for a ``kernel``."""
    return CHUNK_LOGITS.get(device.type, CHUNK_LOGITS["cpu"]) * (READ_BY_KERNEL if kernel else 1)


def loss_and_gradient(
    hidden: Tensor, head: Callable[[Tensor], Tensor], token_loss: TokenLoss, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Per-token losses [N] and the gradient [N, d] of ``sum(weight * losses)`` with respect to ``hidden`` [N, d].

    ``head`` maps hidden states to logits; ``weight`` [N] turns the sum into a mean per trial.
    """
    losses, gradient = _room(hidden)
    vocabulary = head(hidden[:1].detach()).shape[-1] if hidden.shape[0] else 1
    for part in _chunks(hidden, vocabulary):
        with torch.enable_grad():
            leaf = hidden[part].detach().requires_grad_()
            values = token_loss(head(leaf).float(), part)
            (gradient[part],) = torch.autograd.grad((values * weight[part]).sum(), leaf)
        losses[part] = values.detach()
    return losses, gradient


@torch.no_grad()
def cross_entropy_and_gradient(
    kernels: ModuleType, hidden: Tensor, head: Head, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for -log p(``target`` [N]), by a kernel and without a copy of the logits; ``head`` has no softcap."""
    losses, gradient = _room(hidden)
    for part in _chunks(hidden, len(head.linear.weight), kernel=True):
        logits = head.logits(hidden[part])
        losses[part] = kernels.cross_entropy(logits, target[part], weight[part])
        torch.mm(logits, head.linear.weight, out=gradient[part])
    return losses, gradient if head.factor == 1.0 else gradient * head.factor


def _room(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """For losses [N] and gradients [N, d]."""
    return hidden.new_empty(len(hidden), dtype=torch.float32), torch.empty_like(hidden)


def _chunks(hidden: Tensor, vocabulary: int, *, kernel: bool = False) -> Iterator[slice]:
    chunk = max(1, chunk_logits(hidden.device, kernel=kernel) // vocabulary)
    for start in range(0, len(hidden), chunk):
        yield slice(start, min(start + chunk, len(hidden)))
