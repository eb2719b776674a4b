"""Prefix sharing: requests become radix trees of tokens, and what several of them begin with is computed once.

The four choices of a question share its context, and the questions of a few-shot task share their examples.  A row is
such a tree laid out in depth-first order, so that everything behind a token that continues it is one interval: token j
is in the past of token i exactly where ``j <= i < last[j]``.  Positions, not rows, are scored: choices that differ in
their first token read it from the same place.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from harness.engine.generate import LEAST_SHARED, common_prefix

#: A token's matrix products cost as much as attention to this many others (6 hidden sizes of a Llama block: 3,456 for
#: 135M, and more for larger models), so a row may grow until what it shares no longer pays for its length.
LINEAR_COST = 3456
#: And so may its mask, which has a row's length squared in bytes, and more in the attention that reads it.
LONGEST_SHARED = 2048


@dataclass(frozen=True)
class TokenRequest:
    """Score ``continuation`` after ``context``; ``key`` says whose it is."""

    key: tuple
    context: tuple[int, ...]
    continuation: tuple[int, ...]

    def clipped(self, max_length: int) -> tuple[list[int], list[int]]:
        """(input ids, targets): at most ``max_length`` inputs, cut from the left, as lm-eval's HF model does."""
        whole = [*self.context, *self.continuation][-(max_length + 1) :]
        return whole[:-1], whole[len(whole) - len(self.continuation) :]


#: (request number, input ids, targets)
Clipped = tuple[int, list[int], list[int]]


@dataclass(frozen=True)
class TreeRow:
    """One row of a scoring pass.

    Token j of the row is followed by ``last[j] - j - 1`` tokens that have it in their past.  Scored token i belongs to
    request ``request[i]``, is ``target[i]`` and is read from position ``source[i]`` of this row.
    """

    ids: np.ndarray
    positions: np.ndarray
    last: np.ndarray
    request: np.ndarray
    source: np.ndarray
    target: np.ndarray

    @property
    def branched(self) -> bool:
        """Whether some token does not see all before it, so that a causal mask is not enough."""
        return bool((self.last < len(self.ids)).any())


def build_row(requests: Sequence[Clipped]) -> TreeRow:
    """The radix tree of these requests; equal inputs, and equal beginnings, are in it once."""
    ids: list[int] = []
    positions: list[int] = []
    last: list[int] = []
    request, source, target = [], [], []
    path: list[int] = []  # where the tokens of the previous sequence lie in the row
    previous: list[int] = []
    for index, inputs, targets in sorted(requests, key=lambda entry: entry[1]):
        shared = common_prefix(previous, inputs)
        for place in path[shared:]:
            last[place] = len(ids)
        fresh = range(len(ids), len(ids) + len(inputs) - shared)
        path[shared:] = fresh
        ids += inputs[shared:]
        positions += range(shared, len(inputs))
        last += [0] * len(fresh)
        previous = inputs
        request += [index] * len(targets)
        source += path[len(inputs) - len(targets) :]
        target += targets
    for place in path:
        last[place] = len(ids)
    as_array = (np.asarray(values, dtype=np.int64) for values in (ids, positions, last, request, source, target))
    return TreeRow(*as_array)


def build_rows(
    groups: Sequence[Sequence[tuple[int, TokenRequest]]], max_length: int, window: int | None, branches: bool = True
) -> list[TreeRow]:
    """Rows for groups of requests (one group a document), longest first, so that batches waste little padding.

    A model with a sliding window shorter than a row gets one row a request, because a custom mask would override its
    window; so does one that bears no ``branches`` at all.
    """
    documents = [[(index, *request.clipped(max_length)) for index, request in group] for group in groups]
    rows = []
    for shared in _together(documents) if branches else documents:
        row = build_row(shared)
        if row.branched and (not branches or (window is not None and len(row.ids) > window)):
            rows += [build_row([single]) for single in shared]
        else:
            rows.append(row)
    return sorted(rows, key=lambda row: -len(row.ids))


def _together(documents: Sequence[Sequence[Clipped]]) -> Iterator[list[Clipped]]:
    """The documents that a row should hold: neighbours by their tokens, as long as sharing pays for the longer row."""
    ordered = sorted(documents, key=lambda document: document[0][1])
    current: list[Clipped] = []
    length, begins = 0, []  # of the row so far: its tokens, and what its last document begins with
    for document in ordered:
        first = document[0][1]
        shared = common_prefix(begins, first)
        size = _size(document)
        pays = shared >= LEAST_SHARED and shared * (LINEAR_COST + size) > 2 * length * (size - shared)
        if current and pays and length + size - shared <= LONGEST_SHARED:
            current += document
            length += size - shared
        else:
            if current:
                yield current
            current, length = list(document), size
        begins = first
    if current:
        yield current


def _size(document: Sequence[Clipped]) -> int:
    """Tokens of a document's tree."""
    ordered = sorted(inputs for _, inputs, _ in document)
    shared = (common_prefix(a, b) for a, b in itertools.pairwise(ordered))
    return sum(map(len, ordered)) - sum(shared)


def batch_rows(rows: Sequence[TreeRow], budget: int, pass_cost: int) -> list[list[TreeRow]]:
    """Consecutive rows, longest first, whose padded size stays within ``budget`` tokens.

    They are cut where that saves padding: a further pass costs as much as ``pass_cost`` tokens.  A batch has at least
    one row.  Rows with and without branches are not mixed: only the former need a mask.
    """
    batches: list[list[TreeRow]] = []
    for masked in (False, True):
        alike = [row for row in rows if row.branched == masked]
        cuts = _cuts([len(row.ids) for row in alike], budget, pass_cost)
        batches += [alike[start:stop] for start, stop in itertools.pairwise(cuts)]
    return batches


def _cuts(lengths: Sequence[int], room: int, pass_cost: int) -> list[int]:
    """Where falling lengths are cut, both ends among them: each part is padded to its first length and costs a pass.

    The cheapest of all cuts where a part is full or the next row is shorter.
    """
    count = len(lengths)
    shorter = [i for i in range(1, count) if lengths[i] < lengths[i - 1]]
    best: dict[int, tuple[int, int]] = {0: (0, 0)}  # by a place: the cost of all before it, and where its part starts
    waiting = [0]
    while waiting:
        start = heappop(waiting)
        if start == count:
            break
        full = min(count, start + max(1, room // lengths[start]))
        for stop in (*shorter[bisect_right(shorter, start) : bisect_left(shorter, full)], full):
            cost = best[start][0] + pass_cost + (stop - start) * lengths[start]
            if stop not in best:
                heappush(waiting, stop)
            if stop not in best or cost < best[stop][0]:
                best[stop] = cost, start
    cuts = [count]
    while cuts[-1]:
        cuts.append(best[cuts[-1]][1])
    return cuts[::-1]
