"""Prefix sharing: the requests of one document become one row, a shared prefix with a branch for each continuation.

The four choices of a question share its context, so a row holds the context once and each choice's own tokens behind
it; a mask keeps the branches apart and each branch's positions go on from the prefix.  Positions, not rows, are scored:
choices that differ in their first token read it from the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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


@dataclass(frozen=True)
class Row:
    """One row of a scoring pass.

    ``branch`` is 0 in the shared prefix and counts up from 1 behind it.  Scored token i belongs to request
    ``request[i]``, is ``target[i]`` and is read from position ``source[i]`` of this row.
    """

    ids: np.ndarray
    positions: np.ndarray
    branch: np.ndarray
    request: np.ndarray
    source: np.ndarray
    target: np.ndarray

    @property
    def branches(self) -> int:
        return int(self.branch.max(initial=0))


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the longest prefix that all sequences share."""
    first, last = min(sequences), max(sequences)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def build_row(requests: Sequence[tuple[int, list[int], list[int]]]) -> Row:
    """A row of (request number, input ids, targets) that share what prefix they have."""
    shared = common_prefix([inputs for _, inputs, _ in requests])
    ids, positions, branch = list(requests[0][1][:shared]), list(range(shared)), [0] * shared
    request, source, target = [], [], []
    for number, (index, inputs, targets) in enumerate(requests, start=1):
        offset = len(ids) - shared  # where this branch's position p >= shared lies: p + offset
        tail = inputs[shared:]
        ids += tail
        positions += range(shared, len(inputs))
        branch += [number] * len(tail)
        for place, token in zip(range(len(inputs) - len(targets), len(inputs)), targets, strict=True):
            request.append(index)
            source.append(place if place < shared else place + offset)
            target.append(token)
    as_array = (np.asarray(values, dtype=np.int64) for values in (ids, positions, branch, request, source, target))
    return Row(*as_array)


def build_rows(groups: Sequence[Sequence[tuple[int, TokenRequest]]], max_length: int, window: int | None) -> list[Row]:
    """Rows for groups of requests (one group a document), longest first, so that batches waste little padding.

    Identical inputs of a group share a branch-free row.  A model with a sliding window shorter than a row gets one row
    a request, because a custom mask would override its window.
    """
    rows = []
    for group in groups:
        clipped = [(index, *request.clipped(max_length)) for index, request in group]
        row = build_row(clipped)
        if row.branches > 1 and (len(row.ids) > max_length or (window is not None and len(row.ids) > window)):
            rows += [build_row([single]) for single in clipped]
        else:
            rows.append(row)
    return sorted(rows, key=lambda row: -len(row.ids))


def batch_rows(rows: Sequence[Row], budget: int, trials: int) -> list[list[Row]]:
    """Consecutive rows whose padded size, times the trials that run side by side, stays within ``budget`` tokens.

    A batch has at least one row.  Rows with and without branches are not mixed: only the former need a mask.
    """
    batches: list[list[Row]] = []
    for masked in (False, True):
        current: list[Row] = []
        for row in rows:
            if (row.branches > 1) != masked:
                continue
            if current and (len(current) + 1) * len(current[0].ids) * trials > budget:
                batches.append(current)
                current = []
            current.append(row)
        if current:
            batches.append(current)
    return batches


def tree_mask(branch: np.ndarray) -> np.ndarray:
    """[R, T] branch numbers (-1: padding) -> [R, T, T], true where query i may look at key j.

    Causal, and within the shared prefix or one's own branch.  Padding looks at the prefix, so that no row of the
    softmax is empty.
    """
    length = branch.shape[1]
    causal = np.tril(np.ones((length, length), dtype=bool))
    same = branch[:, :, None] == branch[:, None, :]
    prefix = (branch == 0)[:, None, :]
    return causal & (same | prefix)
