"""Packed decoding: continuations of the prompts of K trials at once, greedy or drawn, with one key-value cache.

Scores are of greedy continuations of the same prompts for all trials; on-policy methods draw answers of each trial's
student to that trial's prompts.  Every token is read back to the host, to know which rows are done, and transformers
looks at the mask once a pass: these waits are what decoding needs, and there are no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from harness.engine.continuation import LEAST_MOVED, Continuation
from harness.engine.model.packed import PackedModel

Progress = Callable[[int], None]  #: called with the number of tokens just done

#: Which of the open rows need no more: [n] pairs (trial, place), [n] lists of the tokens said so far -> [n] booleans.
Finished = Callable[[list[tuple[int, int]], list[list[int]]], list[bool]]

#: The next token [K * r] from logits [K * r, V] of the rows at these r places of every trial, which have said so many.
Pick = Callable[[Tensor, list[int], int], Tensor]

#: Sequences share the reading of their beginning only where it has at least this many tokens: a shorter one, such as
#: "Question:", saves less than the attention mask, or the pass, that this takes.
LEAST_SHARED = 16

#: On a GPU at most so many times the rows that a budget of tokens makes are continued together, where this share of its
#: memory holds their keys, values and logits: a step of few rows takes as long as one of many, 25 ms to launch kernels.
MOST_TIMES, ROWS_SHARE = 4, 1 / 16
#: Of a logit: itself, and copies in float32 where a penalty or a draw looks at it.
LOGIT_BYTES = 16


@dataclass
class _State:
    """What the next step starts from: rows of trial 0 first, at the same places in every trial."""

    ids: Tensor  # [K * r, t], not yet seen by the model
    mask: Tensor  # [K * r, all columns so far]: 0 on padding
    positions: Tensor  # [K * r, t]
    cache: DynamicCache
    places: list[int]  # of the R prompts, the r that are still open in some trial

    def keep(self, rows: Sequence[int], trials: int) -> Tensor:
        """Go on with these of the r rows of every trial; their places among all K r."""
        size = len(self.places)
        chosen = torch.tensor([k * size + i for k in range(trials) for i in rows], device=self.ids.device)
        self.ids, self.mask, self.positions = self.ids[chosen], self.mask[chosen], self.positions[chosen]
        self.cache.batch_select_indices(chosen)
        self.places = [self.places[i] for i in rows]
        return chosen


def greedy(logits: Tensor, places: list[int], said: int) -> Tensor:
    """The likeliest token."""
    return logits.argmax(-1)


class Penalised:
    """The likeliest token after those of the prompt and the answer so far have become less likely (arXiv 1909.05858).

    Logits of theirs are divided by ``penalty`` where they are positive, else multiplied, as transformers does.
    """

    def __init__(self, prompts: Sequence[Sequence[Sequence[int]]], penalty: float) -> None:
        self.prompts, self.penalty = prompts, penalty
        self.seen: Tensor | None = None  #: [K, R, V], once V is known

    def __call__(self, logits: Tensor, places: list[int], said: int) -> Tensor:
        trials = len(self.prompts)
        if self.seen is None:
            seen = np.zeros((trials, len(self.prompts[0]), logits.shape[-1]), dtype=bool)
            for k, prompts in enumerate(self.prompts):
                for i, prompt in enumerate(prompts):
                    seen[k, i, list(prompt)] = True
            self.seen = torch.from_numpy(seen).to(logits.device)
        logits = logits.float()
        lower = torch.where(logits < 0, logits * self.penalty, logits / self.penalty)
        token = torch.where(self.seen[:, places].flatten(0, 1), lower, logits).argmax(-1)
        rows = torch.arange(trials, device=token.device)[:, None], torch.tensor(places, device=token.device)
        self.seen[(*rows, token.view(trials, -1))] = True
        return token


@dataclass(frozen=True)
class Draws:
    """Tokens drawn at this temperature from ``uniform`` [K, R, T] in [0, 1), one number a token of each row.

    The number picks a token on the cumulative distribution, so a row's draw depends on its own number and logits, not
    on who stands beside it.
    """

    uniform: Tensor
    temperature: float

    def __call__(self, logits: Tensor, places: list[int], said: int) -> Tensor:
        # In fp64: over 150,000 tokens a sum in fp32 is off by as much as its rarer tokens weigh.
        total = (logits.double() / self.temperature).softmax(-1).cumsum(-1)
        at = self.uniform[:, places, said].reshape(-1, 1) * total[:, -1:]
        return torch.searchsorted(total, at, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


@torch.no_grad()
def generate(
    model: PackedModel,
    prompts: Sequence[Sequence[Sequence[int]]],
    max_tokens: int,
    finished: Finished,
    progress: Progress = lambda tokens: None,
    pick: Pick = greedy,
) -> tuple[list[list[list[int]]], list[bool]]:
    """Continuations of ``prompts[k][i]``, R of each trial, as token ids, and which trials are finite.

    The adapters of the trials must be in place (``PackedModel.adapted``).  A trial with a logit that is not finite has
    no continuation worth reading: argmax over NaN is still a token.  What all prompts begin with is computed once a
    trial, and places that are done in all trials leave the batch.
    """
    trials = len(prompts)
    state = _prefill(model, prompts, progress)
    out: list[list[list[int]]] = [[[] for _ in each] for each in prompts]
    open_rows = {(k, i) for k in range(trials) for i in state.places}
    finite = torch.ones(trials, dtype=torch.bool, device=model.device)
    ahead: Continuation | None = None
    for turn in range(max_tokens):
        if turn and ahead is None and _stays(model, state.cache):
            ahead = Continuation(model, state.mask, state.positions, state.cache, max_tokens - turn)
        logits = model.logits(ahead.take(state.ids) if ahead else _next(model, state))
        finite &= logits.isfinite().all(-1).view(trials, -1).all(-1)
        token = pick(logits, state.places, turn)
        progress(state.ids.numel())
        said = token.view(trials, -1).tolist()
        spoken = [(k, i) for k in range(trials) for i in state.places if (k, i) in open_rows]
        column = {place: row for row, place in enumerate(state.places)}
        for k, i in spoken:
            out[k][i].append(said[k][column[i]])
        done = finished(spoken, [out[k][i] for k, i in spoken])
        open_rows -= {row for row, over in zip(spoken, done, strict=True) if over}
        if not open_rows:
            break
        state.ids, state.positions = token[:, None], state.positions[:, -1:] + 1
        if ahead is None:
            state.mask = torch.cat([state.mask, state.mask.new_ones(len(state.mask), 1)], dim=1)
        alive = [column[i] for i in state.places if any((k, i) in open_rows for k in range(trials))]
        fewer = model.shares and 2 * len(alive) <= len(state.places)  # moving the cache costs about a step
        if fewer and (ahead is None or ahead.left >= LEAST_MOVED):
            chosen = state.keep(alive, trials)
            if ahead:
                ahead.keep(chosen)
    return out, finite.tolist()


def _next(model: PackedModel, state: _State) -> Tensor:
    return model.decode(state.ids, state.mask, state.positions, state.cache)[:, -1]


def _stays(model: PackedModel, cache: DynamicCache) -> bool:
    """Whether keys and values may have their places from the start: on a GPU, where the model keeps them as usual."""
    plain = all(type(layer) is DynamicLayer for layer in cache.layers)
    return model.device.type == "cuda" and model.stays and model.shares and model.window is None and plain


def _prefill(model: PackedModel, prompts: Sequence[Sequence[Sequence[int]]], progress: Progress) -> _State:
    """The prompts padded on the left behind the prefix that all of a trial share, which is in the cache already."""
    trials, size, flat = len(prompts), len(prompts[0]), [prompt for each in prompts for prompt in each]
    # a window counts columns, padding included
    shared = min(map(_shared, prompts)) if model.shares and model.window is None else 0
    cache, device = DynamicCache(config=model.module.config), model.device
    if shared:
        prefix = torch.tensor([list(each[0][:shared]) for each in prompts], device=device)
        model.decode(prefix, torch.ones_like(prefix), torch.arange(shared, device=device).expand_as(prefix), cache)
        cache.batch_repeat_interleave(size)
        progress(prefix.numel())
    length = max(map(len, flat)) - shared
    ids, seen = np.zeros((2, len(flat), length), dtype=np.int64)
    for i, prompt in enumerate(flat):
        rest = prompt[shared:]
        ids[i, length - len(rest) :], seen[i, length - len(rest) :] = rest, 1
    mask = torch.from_numpy(np.pad(seen, ((0, 0), (shared, 0)), constant_values=1)).to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
    assert len(flat) == trials * size, "every trial has the same number of prompts"
    return _State(torch.from_numpy(ids).to(device), mask, positions, cache, list(range(size)))


def rows_together(width: int, budget: int, memory: float, token_bytes: int, vocabulary: int) -> int:
    """Rows of ``width`` tokens that are continued together within ``budget`` tokens, or more of them on a GPU.

    ``memory`` is that GPU's in bytes, 0 on a CPU; ``token_bytes`` are :func:`cached_bytes`.
    """
    rows = max(1, budget // width)
    held = int(ROWS_SHARE * memory / (width * token_bytes + LOGIT_BYTES * vocabulary))
    return max(rows, min(held, MOST_TIMES * rows))


@torch.no_grad()
def cached_bytes(model: PackedModel) -> int:
    """What a token's keys and values take, in all layers; no adapters may be in place."""
    cache, token = DynamicCache(config=model.module.config), torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    model.decode(token, torch.ones_like(token), token, cache)
    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    return sum(kept.nbytes for layer in layers for kept in (layer.keys, layer.values) if kept is not None)


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, where that is worth a separate pass; each keeps at least one token."""
    shared = min(min(common_prefix(prompts[0], prompt), len(prompt) - 1) for prompt in prompts)
    return shared if len(prompts) > 1 and shared >= LEAST_SHARED else 0


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest prefix that both share."""
    shorter = min(len(first), len(second))
    return next((i for i in range(shorter) if first[i] != second[i]), shorter)
