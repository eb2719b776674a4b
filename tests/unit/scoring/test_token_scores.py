"""What is read off logits, chunk by chunk: by a kernel as by torch, and as from all logits at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness.scoring import forward
from harness.scoring.trees import TreeRow

TRIALS, VOCABULARY, WIDTH = 3, 50, 8


def likelihoods(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The kernel of that name, in torch."""
    peak, log_sum = torch.empty(2, len(logits))
    peak.copy_(logits.amax(-1))
    return peak, log_sum.copy_(logits.logsumexp(-1) - peak), logits.argmax(-1)


def row(seed: int, length: int, scored: int) -> TreeRow:
    """A row without branches, some of whose places score several tokens, others none."""
    draw = np.random.default_rng(seed).integers
    whole = np.arange(length)
    request, source, target = draw(0, 9, scored), draw(0, length, scored), draw(0, VOCABULARY, scored)
    return TreeRow(whole % VOCABULARY, whole, np.full(length, length), request, source, target)


@pytest.mark.parametrize("chunk", [1, 2, 5, 1000])
@pytest.mark.parametrize("kernels", [SimpleNamespace(likelihoods=likelihoods), None])
def test_chunks_score_as_all_logits_do(kernels, chunk, monkeypatch):
    batch = forward.collate([row(0, 12, 20), row(1, 7, 9)], torch.device("cpu"))
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    model: Any = SimpleNamespace(head=head, logits=head)
    monkeypatch.setattr(forward, "kernels_for", lambda device: kernels)
    monkeypatch.setattr(forward, "chunk_logits", lambda device, kernel: chunk * TRIALS * VOCABULARY)
    hidden = torch.randn(TRIALS, len(batch.place), WIDTH)
    with torch.no_grad():
        hidden[:, : len(batch.place) // 2, :] = head.weight[batch.target[0]]  # some targets are the likeliest
        logits = head(hidden)[:, batch.source]
        picked, greedy = forward._token_scores(model, hidden, batch)
    assert 0 < greedy.sum() < greedy.numel()
    assert bool((greedy == (logits.argmax(-1) == batch.target)).all())
    wanted = logits.double().log_softmax(-1)[:, torch.arange(len(batch.target)), batch.target]
    torch.testing.assert_close(picked.double(), wanted, atol=1e-5, rtol=1e-5)
