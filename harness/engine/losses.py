"""Losses per scored token, computed chunk by chunk so that no [tokens, vocabulary] tensor is ever kept.

The head is frozen, so the gradient a loss sends back is that of the hidden states alone.  It is computed together with
the loss, one chunk of tokens at a time; the trunk then takes it with ``hidden.backward(gradient)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: fp32 logits in flight at a time: 256 MiB on a GPU, which wants large kernels; 32 MiB on a CPU, which wants its cache.
CHUNK_LOGITS = {"cuda": 2**26, "cpu": 2**23}

#: (student logits [n, V] in fp32, token positions of this chunk as a slice) -> loss of each token [n].
TokenLoss = Callable[[Tensor, slice], Tensor]


def chunk_logits(device: torch.device) -> int:
    """How many logits to hold at a time on this device."""
    return CHUNK_LOGITS.get(device.type, CHUNK_LOGITS["cpu"])


def loss_and_gradient(
    hidden: Tensor, head: Callable[[Tensor], Tensor], token_loss: TokenLoss, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Per-token losses [N] and the gradient [N, d] of ``sum(weight * losses)`` with respect to ``hidden`` [N, d].

    ``head`` maps hidden states to logits; ``weight`` [N] turns the sum into a mean per trial.
    """
    losses = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
    gradient = torch.empty_like(hidden)
    vocabulary = head(hidden[:1].detach()).shape[-1] if hidden.shape[0] else 1
    chunk = max(1, chunk_logits(hidden.device) // vocabulary)
    for start in range(0, hidden.shape[0], chunk):
        part = slice(start, min(start + chunk, hidden.shape[0]))
        with torch.enable_grad():
            leaf = hidden[part].detach().requires_grad_()
            values = token_loss(head(leaf).float(), part)
            (gradient[part],) = torch.autograd.grad((values * weight[part]).sum(), leaf)
        losses[part] = values.detach()
    return losses, gradient
