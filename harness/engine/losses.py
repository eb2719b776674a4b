"""Losses per scored token, computed chunk by chunk so that no [tokens, vocabulary] tensor is ever kept.

The head is frozen, so the gradient a loss sends back is that of the hidden states alone.  It is computed together with
the loss, one chunk of tokens at a time; the trunk then takes it with ``hidden.backward(gradient)``.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

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


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log p(target), [n], for logits [n, V] and targets [n]."""
    return F.cross_entropy(logits, target, reduction="none")


def kl_teacher_student(student: Tensor, teacher: Tensor) -> Tensor:
    """sum p_T (log p_T - log p_S) over the vocabulary, [n]; logits [n, V]."""
    log_s, log_t = student.log_softmax(-1), teacher.log_softmax(-1)
    return (log_t.exp() * (log_t - log_s)).sum(-1)


def kl_student_teacher(student: Tensor, teacher: Tensor) -> Tensor:
    """sum p_S (log p_S - log p_T) over the vocabulary, [n]; logits [n, V]."""
    return kl_teacher_student(teacher, student)


def jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """beta KL(p_T || m) + (1 - beta) KL(p_S || m) with m = beta p_T + (1 - beta) p_S, [n]; logits [n, V], 0 < beta < 1.

    The generalised Jensen-Shannon divergence of arXiv 2306.13649.  jsd / beta goes to ``kl_teacher_student`` for
    beta -> 0, and jsd / (1 - beta) to ``kl_student_teacher`` for beta -> 1.
    """
    log_s, log_t = student.log_softmax(-1), teacher.log_softmax(-1)
    log_m = torch.logaddexp(log_t + math.log(beta), log_s + math.log1p(-beta))
    taught, own = log_t.exp() * (log_t - log_m), log_s.exp() * (log_s - log_m)
    return (beta * taught + (1 - beta) * own).sum(-1)


Divergence = Callable[[Tensor, Tensor], Tensor]  #: (student logits [n, V], teacher logits [n, V]) -> [n]

#: Divergences by formula: 'forward' and 'reverse' mean opposite things in different papers (methods.md, trap 1).
DIVERGENCES: dict[str, Divergence] = {
    "kl_teacher_student": kl_teacher_student,
    "kl_student_teacher": kl_student_teacher,
}


def divergence(name: str) -> Divergence:
    """The divergence of this name: one of :data:`DIVERGENCES`, or ``jsd(beta)`` such as ``jsd(0.5)``.

    Raises ValueError for another name and for a beta outside (0, 1): there the formula is 0, whatever the models say.
    """
    if name in DIVERGENCES:
        return DIVERGENCES[name]
    known = [*DIVERGENCES, "jsd(0.5)"]
    if not (match := re.fullmatch(r"jsd\(([0-9.eE+-]+)\)", name)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"there is no divergence of this name; {hint}known: {', '.join(DIVERGENCES)}, jsd(beta)")
    try:
        beta = float(match[1])
    except ValueError:
        beta = math.nan
    if not 0 < beta < 1:
        raise ValueError("the beta of jsd(beta) must lie between 0 and 1; at its ends take the KL that it goes to")
    return partial(jsd, beta=beta)
