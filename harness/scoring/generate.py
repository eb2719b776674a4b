"""Packed greedy decoding: the continuations of every prompt for K trials at once, with one key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from harness.engine.model import PackedModel
from harness.scoring.forward import Progress
from harness.scoring.trees import LEAST_SHARED, common_prefix

#: Which of the open rows need no more: [n] lists of the tokens said so far -> [n] booleans.
Finished = Callable[[list[list[int]]], list[bool]]


@dataclass
class _State:
    """What the next step starts from: rows of trial 0 first, the same prompts for every trial."""

    ids: Tensor  # [K * R, t], not yet seen by the model
    mask: Tensor  # [K * R, all columns so far]: 0 on padding
    positions: Tensor  # [K * R, t]
    cache: DynamicCache
    prompts: list[int]  # the R prompts that are still open in some trial

    def keep(self, rows: Sequence[int], trials: int) -> None:
        """Go on with these of the R rows of every trial."""
        size = len(self.prompts)
        chosen = torch.tensor([k * size + i for k in range(trials) for i in rows], device=self.ids.device)
        self.ids, self.mask, self.positions = self.ids[chosen], self.mask[chosen], self.positions[chosen]
        self.cache.batch_select_indices(chosen)
        self.prompts = [self.prompts[i] for i in rows]


@torch.no_grad()
def generate_greedy(
    model: PackedModel,
    prompts: Sequence[Sequence[int]],
    trials: int,
    max_tokens: int,
    finished: Finished,
    progress: Progress,
) -> tuple[list[list[list[int]]], list[bool]]:
    """Greedy continuations of every prompt for every trial, ``result[k][i]`` as token ids, and which trials are finite.

    A trial with a logit that is not finite has no continuation worth reading: argmax over NaN is still a token.  What
    all prompts begin with is computed once a trial, and prompts that are done in all trials leave the batch.
    """
    state = _prefill(model, prompts, trials, progress)
    out: list[list[list[int]]] = [[[] for _ in prompts] for _ in range(trials)]
    open_rows = {(k, i) for k in range(trials) for i in range(len(prompts))}
    finite = torch.ones(trials, dtype=torch.bool, device=model.device)
    for _ in range(max_tokens):
        hidden = model.decode(state.ids, state.mask, state.positions, state.cache)
        logits = model.logits(hidden[:, -1])
        finite &= logits.isfinite().all(-1).view(trials, -1).all(-1)
        token = logits.argmax(-1)
        progress(state.ids.numel())
        said = token.view(trials, -1).tolist()
        spoken = [(k, i) for k in range(trials) for i in state.prompts if (k, i) in open_rows]
        column = {prompt: place for place, prompt in enumerate(state.prompts)}
        for k, i in spoken:
            out[k][i].append(said[k][column[i]])
        done = finished([out[k][i] for k, i in spoken])
        open_rows -= {row for row, over in zip(spoken, done, strict=True) if over}
        if not open_rows:
            break
        state.ids, state.positions = token[:, None], state.positions[:, -1:] + 1
        state.mask = torch.cat([state.mask, state.mask.new_ones(len(state.mask), 1)], dim=1)
        alive = [column[i] for i in state.prompts if any((k, i) in open_rows for k in range(trials))]
        if 2 * len(alive) <= len(state.prompts):  # moving the cache costs about a step
            state.keep(alive, trials)
    return out, finite.tolist()


def _prefill(model: PackedModel, prompts: Sequence[Sequence[int]], trials: int, progress: Progress) -> _State:
    """The prompts padded on the left behind the prefix that all of them share, which is in the cache already."""
    shared = _shared(prompts) if model.window is None else 0  # a window counts columns, padding between included
    cache, device = DynamicCache(config=model.module.config), model.device
    if shared:
        prefix = torch.tensor([list(prompts[0][:shared])], device=device).repeat(trials, 1)
        model.decode(prefix, torch.ones_like(prefix), torch.arange(shared, device=device).expand_as(prefix), cache)
        cache.batch_repeat_interleave(len(prompts))
        progress(prefix.numel())
    length = max(map(len, prompts)) - shared
    ids, seen = np.zeros((2, len(prompts), length), dtype=np.int64)
    for i, prompt in enumerate(prompts):
        own = prompt[shared:]
        ids[i, length - len(own) :], seen[i, length - len(own) :] = own, 1
    mask = torch.from_numpy(np.pad(seen, ((0, 0), (shared, 0)), constant_values=1)).to(device).repeat(trials, 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
    return _State(torch.from_numpy(ids).to(device).repeat(trials, 1), mask, positions, cache, list(range(len(prompts))))


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, where that is worth a pass of its own; each keeps at least one token."""
    shared = min(min(common_prefix(prompts[0], prompt), len(prompt) - 1) for prompt in prompts)
    return shared if len(prompts) > 1 and shared >= LEAST_SHARED else 0
