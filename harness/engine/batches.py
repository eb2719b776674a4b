"""Training data of a pack: encoded examples, a sampler per trial, and batches that hold the rows of all trials.

A trial draws its examples from its own seed and its own task, whatever its neighbours do: packing changes which rows
stand beside it and how far they are padded, never which examples form a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: What a pass costs beside its tokens, in tokens: 300 ms on 2 CPU cores, where a token takes 2.3 ms (135M, bf16); on an
#: H100 a pass is 130 ms of launches, the time of about 16,000 tokens.
PASS_OVERHEAD = {"cpu": 128, "cuda": 16384}


@dataclass(frozen=True)
class Example:
    """Token ids of one training example; the answer is everything from ``answer_start`` on."""

    ids: np.ndarray  # [length], int64
    answer_start: int

    def truncated(self, max_length: int) -> Example:
        """Cut from the left, as lm-eval does, so that the answer stays."""
        cut = max(0, len(self.ids) - max_length)
        return Example(self.ids[cut:], max(1, self.answer_start - cut)) if cut else self


def draw(examples: int, available: int, seed: int) -> np.ndarray:
    """The indices [examples] that a trial sees of a task with ``available`` examples, in order; one pass."""
    return np.random.default_rng(seed).permutation(available)[:examples]


@dataclass(frozen=True)
class Batch:
    """Rows of K trials that go through the model together: rows of trial 0 first.

    ``ids`` is [K * R, T]; the other tensors have one entry an answer token: where its logits come from, what they
    should say, whose it is, its place in the answer, and 1 / (answer tokens of that trial in the whole step).
    """

    ids: Tensor
    source: Tensor  # index into the flattened [K * R * T] hidden states, of the position before the token
    target: Tensor
    trial: Tensor
    position: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Step:
    """One optimizer step of K trials, in as many passes as its token budget asks for."""

    passes: tuple[Batch, ...]
    tokens: tuple[int, ...]  # real tokens of each trial

    @property
    def real_tokens(self) -> int:
        return sum(self.tokens)


def make_step(rows: Sequence[Sequence[Example]], pad: int, device: torch.device, budget: int = 2**31) -> Step:
    """The step of ``rows[k]``, the examples of trial k; every trial has the same number of rows.

    Rows are padded on the right, and cut into passes of rows of similar length where that is cheaper than padding them
    all to the longest, or where they do not fit the ``budget`` of tokens; the passes' gradients add up to the same.
    """
    answers = [sum(len(example.ids) - example.answer_start for example in trial) for trial in rows]
    ordered = [sorted(trial, key=lambda example: -len(example.ids)) for trial in rows]
    longest = [max(len(trial[i].ids) for trial in ordered) * len(rows) for i in range(len(ordered[0]))]
    cuts = cheapest_cuts(longest, budget, PASS_OVERHEAD.get(device.type, PASS_OVERHEAD["cpu"]))
    passes = tuple(
        _collate([trial[start:stop] for trial in ordered], answers, pad, device)
        for start, stop in itertools.pairwise(cuts)
    )
    return Step(passes, tuple(sum(len(example.ids) for example in trial) for trial in rows))


def cheapest_cuts(widths: Sequence[int], budget: int, overhead: int) -> list[int]:
    """Where to cut rows of falling ``widths`` into passes: [0, ..., n], at the least cost.

    A pass of rows i ... j - 1 costs ``widths[i] * (j - i) + overhead``; it is larger than ``budget`` only where a
    single row is.
    """
    best: list[tuple[int, list[int]]] = [(0, [0])]
    for stop in range(1, len(widths) + 1):
        options = []
        for start in range(stop):
            padded = widths[start] * (stop - start)
            if padded <= budget or stop - start == 1:
                cost, cuts = best[start]
                options.append((cost + padded + overhead, [*cuts, stop]))
        best.append(min(options))
    return best[-1][1]


def _collate(rows: Sequence[Sequence[Example]], answers: Sequence[int], pad: int, device: torch.device) -> Batch:
    """One pass; ``answers[k]`` are the answer tokens of trial k in the whole step."""
    flat = [example for trial in rows for example in trial]
    length = max(len(example.ids) for example in flat)
    ids = np.full((len(flat), length), pad, dtype=np.int64)
    columns: list[np.ndarray] = []
    for i, example in enumerate(flat):
        n, start = len(example.ids), example.answer_start
        ids[i, :n] = example.ids
        answer = np.arange(start, n)
        trial = np.full(n - start, i // len(rows[0]))
        columns.append(np.stack([i * length + answer - 1, example.ids[start:], trial, answer - start]))
    table = np.concatenate(columns, axis=1)
    # One transfer for all of it: a step of a small model is bound by launches, not by bytes.
    moved = torch.from_numpy(np.concatenate([ids.ravel(), table.ravel()])).to(device, non_blocking=True)
    source, target, trial, position = moved[ids.size :].view(4, -1)
    weight = torch.from_numpy(1.0 / np.asarray(answers)[table[2]]).float().to(device, non_blocking=True)
    return Batch(moved[: ids.size].view(ids.shape), source, target, trial, position, weight)
