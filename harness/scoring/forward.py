"""The packed forward pass of scoring: log-probabilities of K trials at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from harness.engine.generate import Progress
from harness.engine.losses import chunk_logits
from harness.engine.model.packed import PackedModel
from harness.engine.model.try_kernels import kernels_for
from harness.scoring.trees import TreeRow


@dataclass(frozen=True)
class ScoringBatch:
    """Rows of one pass, on the device; the same for every trial.

    ``ids``, ``positions`` and ``last`` are [R, T]; causal attention is enough where nothing is ``branched``.  ``place``
    [u] are the scored places in the flattened [R * T], rising; scored token i is read at ``place[source[i]]``, is
    ``target[i]`` and belongs to request ``request[i]``.  ``ends[j]`` counts the tokens that places 0 ... j score.
    """

    ids: Tensor
    positions: Tensor
    last: Tensor
    branched: bool
    place: Tensor
    source: Tensor
    target: Tensor
    request: Tensor
    asked: np.ndarray  # the requests, each once, in order
    asked_there: Tensor  # the same on the device
    ends: tuple[int, ...]
    tokens: int  # without padding


def collate(rows: Sequence[TreeRow], device: torch.device) -> ScoringBatch:
    """Pad rows on the right and sort what they score by where it is read."""
    length = max(len(row.ids) for row in rows)
    ids, positions = np.zeros((2, len(rows), length), dtype=np.int64)
    last = np.full((len(rows), length), length, dtype=np.int64)  # padding sees padding: no row of the softmax is empty
    for i, row in enumerate(rows):
        n = len(row.ids)
        ids[i, :n], positions[i, :n], last[i, :n] = row.ids, row.positions, row.last
    place = np.concatenate([i * length + row.source for i, row in enumerate(rows)])
    order = np.argsort(place, kind="stable")
    unique, source, counts = np.unique(place[order], return_inverse=True, return_counts=True)
    request = np.concatenate([row.request for row in rows])[order]
    target = np.concatenate([row.target for row in rows])[order]

    def move(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    asked = np.unique(request)
    return ScoringBatch(
        ids=move(ids),
        positions=move(positions),
        last=move(last),
        branched=any(row.branched for row in rows),
        place=move(unique),
        source=move(source),
        target=move(target),
        request=move(request),
        asked=asked,
        asked_there=move(asked),
        ends=tuple(np.cumsum(counts).tolist()),
        tokens=sum(len(row.ids) for row in rows),
    )


#: (summed log-probability [K, n] in fp64, whether every token was the most likely one [K, n]) of a batch's ``asked``
Answered = tuple[np.ndarray, np.ndarray]


@torch.no_grad()
def score_batches(
    model: PackedModel, batches: Sequence[ScoringBatch], requests: int, trials: int, progress: Progress
) -> Iterator[Answered]:
    """The answers to every batch, in order, on a GPU while the next one is computed.

    The adapters of the ``trials`` must be in place (``PackedModel.adapted``).  Non-finite values are returned as they
    are: the caller decides.
    """
    logprob = torch.zeros(trials, requests, dtype=torch.float64, device=model.device)
    misses = torch.zeros(trials, requests, dtype=torch.int32, device=model.device)
    before: Callable[[], Answered] | None = None
    for batch in batches:
        values, greedy = _score_batch(model, batch, trials)
        logprob.index_add_(1, batch.request, values.double())
        misses.index_add_(1, batch.request, (~greedy).int())
        progress(trials * batch.tokens)
        answered = _fetched(logprob[:, batch.asked_there], misses[:, batch.asked_there] == 0)
        if before is not None:
            yield before()
        before = answered
    if before is not None:
        yield before()


def _fetched(*tensors: Tensor) -> Callable[[], Answered]:
    """Copies of these for the host, which are waited for when they are asked for."""
    if not tensors[0].is_cuda:
        return lambda: cast(Answered, tuple(tensor.numpy() for tensor in tensors))
    copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> Answered:
        copied.synchronize()
        return cast(Answered, tuple(copy.numpy() for copy in copies))

    return wait


def _score_batch(model: PackedModel, batch: ScoringBatch, trials: int) -> tuple[Tensor, Tensor]:
    """(log-probability [K, n], greedy [K, n]) of every scored token of a batch."""
    last = places = None
    if batch.branched or model.unmasked:  # our kernel is compiled once, libraries plan anew for each number of rows
        last, places = batch.last, batch.positions.repeat(trials, 1)
    trial = torch.arange(trials, device=model.device)[:, None]
    at = (trial * batch.ids.numel() + batch.place).flatten()
    hidden = model.hidden_at(at, batch.ids.repeat(trials, 1), last, places)
    return _token_scores(model, hidden.unflatten(0, (trials, -1)), batch)


def _token_scores(model: PackedModel, hidden: Tensor, batch: ScoringBatch) -> tuple[Tensor, Tensor]:
    """log p(target) and argmax == target, both [K, n], from the hidden states [K, u, d] of the scored places.

    Only a chunk of places has logits and log-probabilities at a time, and a place is read once for all the tokens it
    scores.  On a CPU it is the kernel that lm-eval's HF model uses: another log-sum-exp differs by 1e-5 a token there,
    always to one side, which adds up over a text.
    """
    trials, places, _ = hidden.shape
    picked = torch.empty(trials, len(batch.target), device=hidden.device)
    greedy = torch.empty(trials, len(batch.target), dtype=torch.bool, device=hidden.device)
    kernels, found = kernels_for(hidden.device), []
    room = chunk_logits(hidden.device, kernel=kernels is not None)
    chunk = max(1, room // (model.head.weight.shape[0] * trials))
    for start in range(0, places, chunk):
        stop = min(start + chunk, places)
        logits = model.logits(hidden[:, start:stop].flatten(0, 1))
        tokens = slice(batch.ends[start - 1] if start else 0, batch.ends[stop - 1])
        place, target = batch.source[tokens] - start, batch.target[tokens]
        if kernels:
            found.append([each.view(trials, -1) for each in kernels.likelihoods(logits)])
            picked[:, tokens] = logits.unflatten(0, (trials, -1))[:, place, target]
        else:
            logits = logits.float().unflatten(0, (trials, -1))
            greedy[:, tokens] = _likeliest(logits)[:, place] == target
            picked[:, tokens] = logits.log_softmax(-1)[:, place, target]
    if found:  # of all chunks at once: eleven small kernels less for each
        peak, log_sum, likeliest = (torch.cat(each, 1)[:, batch.source] for each in zip(*found, strict=True))
        return picked - peak - log_sum, likeliest == batch.target
    return picked, greedy


def _likeliest(logits: Tensor) -> Tensor:
    """argmax over the last dimension; on a CPU numpy's, which is vectorised: ten times as fast as torch's."""
    return torch.from_numpy(logits.numpy().argmax(-1)) if logits.device.type == "cpu" else logits.argmax(-1)
