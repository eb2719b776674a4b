"""The packed forward pass of scoring: log-probabilities and greedy text for K trials at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from harness.engine.losses import chunk_logits
from harness.engine.model import PackedModel
from harness.scoring.trees import Row, batch_rows, tree_mask

Progress = Callable[[int], None]  #: called with the number of tokens just done


@torch.no_grad()
def score_rows(
    model: PackedModel, rows: Sequence[Row], requests: int, trials: int, budget: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Summed log-probability [K, requests] (fp64) and whether every token was the most likely one [K, requests].

    The adapters of the ``trials`` must be in place (``PackedModel.adapted``).  Non-finite values are returned as they
    are: whoever reads them decides.
    """
    logprob = torch.zeros(trials, requests, dtype=torch.float64, device=model.device)
    misses = torch.zeros(trials, requests, dtype=torch.int32, device=model.device)
    for batch in batch_rows(rows, budget, trials):
        index, values, greedy = _score_batch(model, batch, trials)
        logprob.index_add_(1, index, values.double())
        misses.index_add_(1, index, (~greedy).int())
        progress(trials * sum(len(row.ids) for row in batch))
    return logprob.cpu().numpy(), (misses == 0).cpu().numpy()


def _score_batch(model: PackedModel, batch: Sequence[Row], trials: int) -> tuple[Tensor, Tensor, Tensor]:
    """(request [n], log-probability [K, n], greedy [K, n]) of every scored token of a batch."""
    length = max(len(row.ids) for row in batch)
    ids, positions, branch = (np.zeros((len(batch), length), dtype=np.int64) for _ in range(3))
    branch[:] = -1
    for i, row in enumerate(batch):
        n = len(row.ids)
        ids[i, :n], positions[i, :n], branch[i, :n] = row.ids, row.positions, row.branch
    request = np.concatenate([row.request for row in batch])
    target = np.concatenate([row.target for row in batch])
    place = np.concatenate([i * length + row.source for i, row in enumerate(batch)])
    unique, inverse = np.unique(place, return_inverse=True)

    mask = places = None  # without branches: causal, from 0
    if any(row.branches > 1 for row in batch):
        mask = _move(tree_mask(branch), model).repeat(trials, 1, 1)[:, None]
        places = _move(positions, model).repeat(trials, 1)
    hidden = model.hidden(_move(ids, model).repeat(trials, 1), mask, places)
    hidden = hidden.unflatten(0, (trials, len(batch))).flatten(1, 2)  # [K, R * T, d]
    hidden = hidden[:, _move(unique, model)]
    values, greedy = _token_scores(model, hidden, _move(inverse, model), _move(target, model))
    return _move(request, model), values, greedy


def _token_scores(model: PackedModel, hidden: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """log p(target) and argmax == target, both [K, n], from hidden states [K, u, d]; token i is read at ``source[i]``.

    Only a chunk of positions has logits at a time, and a position is read once for all the tokens it scores.
    """
    trials, places, _ = hidden.shape
    order = torch.argsort(source, stable=True)
    ends = torch.bincount(source, minlength=places).cumsum(0).tolist()  # one read-back a batch, for the slices below
    picked = torch.empty(trials, len(source), device=hidden.device)
    greedy = torch.empty(trials, len(source), dtype=torch.bool, device=hidden.device)
    chunk = max(1, chunk_logits(hidden.device) // (model.head.weight.shape[0] * trials))
    for start in range(0, places, chunk):
        stop = min(start + chunk, places)
        logits = model.logits(hidden[:, start:stop].flatten(0, 1)).float().unflatten(0, (trials, stop - start))
        tokens = order[ends[start - 1] if start else 0 : ends[stop - 1]]
        place = source[tokens] - start
        # log_softmax is one fused pass; logsumexp is five, and was 2.7 times slower on a CPU
        picked[:, tokens] = logits.log_softmax(-1)[:, place, target[tokens]]
        greedy[:, tokens] = logits.argmax(-1)[:, place] == target[tokens]
    return picked, greedy


def _move(array: np.ndarray, model: PackedModel) -> Tensor:
    return torch.from_numpy(array).to(model.device, non_blocking=True)


@torch.no_grad()
def generate_greedy(
    model: PackedModel,
    prompts: Sequence[Sequence[int]],
    trials: int,
    max_tokens: int,
    finished: Callable[[int, int, list[int]], bool],
    progress: Progress,
) -> tuple[list[list[list[int]]], list[bool]]:
    """Greedy continuations of every prompt for every trial, ``result[k][i]`` as token ids, and which trials are finite.

    A trial with a logit that is not finite has no continuation worth reading: argmax over NaN is still a token.

    ``finished(trial, prompt, tokens)`` says when a row needs no more; generation stops when all rows are done.  Prompts
    are padded on the left and decoded with a key-value cache.
    """
    rows = len(prompts)
    length = max(len(prompt) for prompt in prompts)
    ids = np.zeros((rows, length), dtype=np.int64)
    seen = np.zeros((rows, length), dtype=np.int64)
    for i, prompt in enumerate(prompts):
        ids[i, length - len(prompt) :] = prompt
        seen[i, length - len(prompt) :] = 1
    mask = _move(seen, model).repeat(trials, 1)
    step_ids = _move(ids, model).repeat(trials, 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out: list[list[list[int]]] = [[[] for _ in prompts] for _ in range(trials)]
    open_rows = {(k, i) for k in range(trials) for i in range(rows)}
    finite = torch.ones(trials, dtype=torch.bool, device=model.device)
    cache = None
    for _ in range(max_tokens):
        result = model.decoder(
            input_ids=step_ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        cache = result.past_key_values
        logits = model.logits(result.last_hidden_state[:, -1])
        finite &= logits.isfinite().all(-1).view(trials, rows).all(-1)
        token = logits.argmax(-1)
        progress(step_ids.numel())
        for row, value in enumerate(token.tolist()):
            k, i = divmod(row, rows)
            if (k, i) in open_rows:
                out[k][i].append(value)
                if finished(k, i, out[k][i]):
                    open_rows.discard((k, i))
        if not open_rows:
            break
        step_ids = token[:, None]
        mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
        positions = positions[:, -1:] + 1
    return out, finite.tolist()
