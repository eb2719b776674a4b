"""Examples of all trials behind each other in one line, without padding, as a CPU trains on them.

On a CPU every token costs its share.  Of 24 examples of two tasks of the study ``quick`` half of all tokens is padding
where they are padded to one length, and not much less where those of each trial alone stand behind each other.
Neighbours with about equally many tokens (trials of one seed have the same) are multiplied with their factors together.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: What a pass in line costs beside its tokens, in tokens: examples are taken apart for attention, and factors are
#: multiplied with few trials at a time.  On 2 CPU cores (135M, bf16, 3.2 ms a token) two passes of bbc_topics with 0.89
#: of the padded tokens took 1.06 of the time.
LINE_OVERHEAD = 100
#: What further neighbours cost that are multiplied by themselves, in tokens of padding: 140 ms of a pass on 2 CPU cores
#: (135M, bf16), where a token takes 3.2 ms.
NEIGHBOURS_OVERHEAD = 48
#: What a further length costs that examples are padded to for attention, in tokens of that padding.
LENGTH_OVERHEAD = 256


@dataclass(frozen=True)
class Alike:
    """R examples of similar lengths, padded to T tokens for attention alone."""

    at: Tensor  # [R, T], where in the line their tokens are; padding is the last one again
    real: Tensor  # [R, T], what is no padding


@dataclass(frozen=True)
class Line:
    """Where the trials and their examples lie in a line of N tokens."""

    positions: Tensor  # [1, N], from 0 in every example
    neighbours: tuple[tuple[int, int], ...]  # (trials, tokens of each of them), one after the other
    alike: tuple[Alike, ...]
    back: Tensor  # [N], where each token is in [R * T] of all that are alike, behind each other


def line_up(sequences: Sequence[np.ndarray], trials: int, pad: int) -> tuple[np.ndarray, np.ndarray, Line]:
    """Token ids [1, N] of equally many sequences a trial, where each ends, and the line.

    A trial with fewer tokens than its neighbours has the rest of them as one example more, which nobody reads.
    """
    size = len(sequences) // trials
    lengths = np.array(list(map(len, sequences))).reshape(trials, size)
    tokens = lengths.sum(1).tolist()
    cuts = cheapest_cuts(tokens, sum(tokens) * trials, NEIGHBOURS_OVERHEAD)
    neighbours = tuple((stop - start, max(tokens[start:stop])) for start, stop in itertools.pairwise(cuts))
    room = np.repeat([most for _, most in neighbours], [count for count, _ in neighbours])
    every = np.concatenate([lengths, (room - tokens)[:, None]], axis=1)
    starts = np.concatenate([[0], every.ravel().cumsum()])[:-1].reshape(every.shape)
    ids, positions = np.full(room.sum(), pad, dtype=np.int64), np.zeros(room.sum(), dtype=np.int64)
    for begin, length in zip(starts.ravel(), every.ravel(), strict=True):
        positions[begin : begin + length] = np.arange(length)
    for begin, sequence in zip(starts[:, :size].ravel(), sequences, strict=True):
        ids[begin : begin + len(sequence)] = sequence
    alike, back = _by_length(starts.ravel(), every.ravel(), len(ids))
    line = Line(torch.from_numpy(positions)[None], neighbours, alike, torch.from_numpy(back))
    return ids[None], (starts + every)[:, :size].ravel(), line


def _by_length(starts: np.ndarray, lengths: np.ndarray, total: int) -> tuple[tuple[Alike, ...], np.ndarray]:
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    cuts = cheapest_cuts(lengths[order].tolist(), int(lengths.max()) * len(order), LENGTH_OVERHEAD)
    alike, back, seen = [], np.empty(total, dtype=np.int64), 0
    for start, stop in itertools.pairwise(cuts):
        some = order[start:stop]
        token, length = np.arange(int(lengths[some[0]])), lengths[some][:, None]
        at, real = starts[some][:, None] + np.minimum(token, length - 1), token < length
        back[at[real]] = seen + np.flatnonzero(real)
        seen += at.size
        alike.append(Alike(torch.from_numpy(at), torch.from_numpy(real)))
    return tuple(alike), back


def cheapest_cuts(widths: Sequence[int], budget: int, overhead: int) -> list[int]:
    """Where to cut rows of ``widths`` into padded groups of neighbours, at the least cost."""
    return cheapest(widths, budget, overhead)[1]


def cheapest(widths: Sequence[int], budget: int, overhead: int, *, padded: bool = True) -> tuple[int, list[int]]:
    """The least cost of groups of neighbours of rows of these ``widths``, and where to cut for it: [0, ..., n].

    A group costs its widest row's width for each of its rows, or the sum of widths where nothing is ``padded``, and the
    overhead; it is larger than ``budget`` only where a single row is.
    """
    best: list[tuple[int, list[int]]] = [(0, [0])]
    for stop in range(1, len(widths) + 1):
        options, widest, total = [], 0, 0
        for start in reversed(range(stop)):
            widest, total = max(widest, widths[start]), total + widths[start]
            room = widest * (stop - start) if padded else total
            if room <= budget or stop - start == 1:
                cost, cuts = best[start]
                options.append((cost + room + overhead, [*cuts, stop]))
        best.append(min(options))
    return best[-1]
