"""Losses of single tokens by their formula: what a method's loss can be made of.

Each takes logits [n, V] and gives a loss a token, [n].
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from harness.method.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log p(target), [n], for logits [n, V] and targets [n]."""
    return torch.nn.functional.cross_entropy(logits, target, reduction="none")


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
    of_teacher, of_student = log_t.exp() * (log_t - log_m), log_s.exp() * (log_s - log_m)
    return (beta * of_teacher + (1 - beta) * of_student).sum(-1)


Divergence = Callable[["Tensor", "Tensor"], "Tensor"]  #: (student logits [n, V], teacher logits [n, V]) -> [n]

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
