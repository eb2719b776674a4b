"""Rows of the packed scorer: every branch sees the prefix and itself, and every target is read from its place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.engine.model.attention import tree_mask
from harness.scoring.forward import collate
from harness.scoring.trees import (
    LEAST_SHARED,
    LONGEST_SHARED,
    TokenRequest,
    _cuts,
    batch_rows,
    build_row,
    build_rows,
    common_prefix,
)

TOKEN = st.integers(0, 3)  # few tokens, so that prefixes are often shared
CONTEXT = st.lists(TOKEN, min_size=1, max_size=10)
ANSWER = st.lists(TOKEN, min_size=1, max_size=6)


@st.composite
def groups(draw, most: int = 5) -> list[TokenRequest]:
    """Requests of one document: one context or several, answers that may repeat or begin alike."""
    contexts = draw(st.lists(CONTEXT, min_size=1, max_size=2))
    count = draw(st.integers(1, most))
    return [TokenRequest(("key", i), tuple(draw(st.sampled_from(contexts))), tuple(draw(ANSWER))) for i in range(count)]


def clipped(group: list[TokenRequest], length: int = 100) -> list[tuple[int, list[int], list[int]]]:
    return [(10 + i, *request.clipped(length)) for i, request in enumerate(group)]


def sight(row, query: int) -> list[int]:
    """The places that ``query`` looks at, by the mask."""
    return np.flatnonzero(mask_of(row.last)[query]).tolist()


def mask_of(last) -> np.ndarray:
    return tree_mask(torch.from_numpy(last)[None])[0, 0].numpy()


@given(groups())
def test_every_target_is_read_with_exactly_its_own_past(group):
    """What a scored place sees, in order, is what the request alone would be: same tokens, positions 0, 1, 2, ..."""
    requests = clipped(group)
    row = build_row(requests)
    for index, inputs, targets in requests:
        mine = np.flatnonzero(row.request == index)
        assert row.target[mine].tolist() == targets
        for step, place in enumerate(row.source[mine]):
            past = sight(row, place)
            end = len(inputs) - len(targets) + step + 1
            assert row.ids[past].tolist() == inputs[:end]
            assert row.positions[past].tolist() == list(range(end))


@given(groups())
def test_every_beginning_is_there_once(group):
    """The row has as many tokens as the requests have different beginnings, and no token is without a reader."""
    requests = clipped(group)
    row = build_row(requests)
    beginnings = {tuple(inputs[:end]) for _, inputs, _ in requests for end in range(1, len(inputs) + 1)}
    assert len(row.ids) == len(beginnings)
    assert {tuple(row.ids[sight(row, place)]) for place in range(len(row.ids))} == beginnings
    assert len(row.target) == sum(len(targets) for *_, targets in requests)
    assert row.branched == any(sight(row, place) != list(range(place + 1)) for place in range(len(row.ids)))


@given(st.lists(TOKEN, max_size=6), st.lists(TOKEN, max_size=6))
def test_common_prefix(first, second):
    length = common_prefix(first, second)
    assert first[:length] == second[:length]
    assert first[length : length + 1] != second[length : length + 1] or length == len(first) == len(second)


def test_letters_need_no_branch():
    """Answers of one token have the same inputs: one row, no mask, all read from one place."""
    row = build_row(clipped([TokenRequest(("k", i), (7, 8, 9), (i,)) for i in range(4)]))
    assert not row.branched
    assert row.ids.tolist() == [7, 8, 9]
    assert row.source.tolist() == [2, 2, 2, 2]
    assert row.target.tolist() == [0, 1, 2, 3]


@given(CONTEXT, ANSWER, st.integers(1, 12))
def test_clipping_is_lm_evals(context, answer, length):
    """HFLM: ``(context + continuation)[-(max_length + 1):][:-1]``, and the continuation whole."""
    answer = answer[:length]
    inputs, targets = TokenRequest(("k",), tuple(context), tuple(answer)).clipped(length)
    assert inputs == (context + answer)[-(length + 1) :][:-1]
    assert targets == answer
    assert 1 <= len(inputs) <= length
    assert len(targets) <= len(inputs)


@given(st.lists(groups(most=4), min_size=1, max_size=4), st.integers(6, 20), st.one_of(st.none(), st.integers(1, 12)))
def test_rows_hold_every_request_once_and_fit(many, length, window):
    """Numbers are the caller's; branches never make a row longer than the sliding window."""
    numbered, count = [], 0
    for group in many:
        numbered.append([(count + i, request) for i, request in enumerate(group)])
        count += len(group)
    rows = build_rows(numbered, length, window)
    found = {index: [] for index in range(count)}
    for row in rows:
        assert row.positions.max() < length
        if row.branched and window is not None:
            assert len(row.ids) <= window
        for index in dict.fromkeys(row.request.tolist()):
            found[index].append(row.target[row.request == index].tolist())
    wanted = {index: [list(request.continuation)] for group in numbered for index, request in group}
    assert found == wanted
    assert [len(row.ids) for row in rows] == sorted((len(row.ids) for row in rows), reverse=True)


@given(st.lists(groups(most=3), min_size=1, max_size=8), st.integers(0, 200), st.sampled_from([0, 9, 999]))
def test_batches_keep_the_budget_and_lose_no_row(many, budget, pass_cost):
    rows = build_rows([[(0, request) for request in group] for group in many], 100, None)
    batches = batch_rows(rows, budget, pass_cost)
    assert sorted(id(row) for batch in batches for row in batch) == sorted(id(row) for row in rows)
    for batch in batches:
        padded = len(batch) * max(len(row.ids) for row in batch)
        assert len(batch) == 1 or padded <= budget
        assert len({row.branched for row in batch}) == 1


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(0, 40), st.integers(0, 30))
def test_no_other_cuts_are_cheaper(lengths, room, pass_cost):
    lengths = sorted(lengths, reverse=True)

    def may_be(start: int, stop: int) -> bool:
        full = max(1, room // lengths[start])
        ends = stop == len(lengths) or lengths[stop] < lengths[stop - 1]
        return stop - start <= full and (ends or stop - start == full)

    def cost(cuts: list[int]) -> int:
        return sum(pass_cost + (stop - start) * lengths[start] for start, stop in itertools.pairwise(cuts))

    places = range(1, len(lengths))
    tried = ([0, *some, len(lengths)] for n in range(len(lengths)) for some in itertools.combinations(places, n))
    allowed = (cuts for cuts in tried if all(itertools.starmap(may_be, itertools.pairwise(cuts))))
    assert cost(_cuts(lengths, room, pass_cost)) == min(map(cost, allowed))


def test_rows_are_padded_only_where_a_pass_costs_more():
    assert _cuts([90, 10, 10, 10], 400, 1000) == [0, 4]
    assert _cuts([90, 10, 10, 10], 400, 200) == [0, 1, 4]
    assert _cuts([], 400, 1) == [0]


@pytest.mark.parametrize("padding", [0, 1, 5])
def test_padding_is_seen_by_nothing_and_sees_something(padding):
    row = build_row(clipped([TokenRequest(("k", 0), (1, 2), (3, 0)), TokenRequest(("k", 1), (1, 2), (2, 0))]))
    longer = build_row([(0, [1] * (len(row.ids) + padding), [1])])
    last = collate([row, longer], torch.device("cpu")).last
    assert last is not None
    mask, real = tree_mask(last)[0, 0].numpy(), len(row.ids)
    assert np.array_equal(mask[:real, :real], mask_of(row.last))
    assert not mask[:real, real:].any()
    assert mask.any(axis=1).all(), "an empty row of a softmax is NaN"


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=2, max_size=3))
def test_a_row_of_requests_without_a_shared_prefix(bodies):
    """Nothing shared at all: every branch starts at position 0 and sees only itself."""
    requests = [(i, [100 + i, *body], body[-1:]) for i, body in enumerate(bodies)]
    row = build_row(requests)
    starts = np.flatnonzero(row.positions == 0)
    assert row.ids[starts].tolist() == [100 + i for i in range(len(bodies))]
    assert all(sight(row, start) == [start] for start in starts)


def questions(prefix: int, count: int, length: int = 20) -> list[list[tuple[int, TokenRequest]]]:
    """Documents that begin with the same ``prefix`` tokens and go on differently, two answers each."""
    head = tuple(range(1000, 1000 + prefix))
    body = [tuple(10 * i + j % 7 for j in range(length)) for i in range(count)]
    return [[(2 * i + a, TokenRequest((i, a), head + body[i], (a, 1))) for a in (0, 1)] for i in range(count)]


def test_documents_share_their_examples():
    """A few-shot prefix is computed once for many documents, and not for so many that attention costs more."""
    rows = build_rows(questions(700, 60), 2048, None)
    tokens = sum(len(row.ids) for row in rows)
    assert len(rows) < 60 / 5
    assert tokens < 60 * (700 + 22) / 5
    assert max(len(row.ids) for row in build_rows(questions(700, 600), 2048, None)) <= LONGEST_SHARED


@pytest.mark.parametrize("prefix", [0, 3, LEAST_SHARED - 1])
def test_a_short_beginning_is_not_worth_a_longer_row(prefix):
    assert len(build_rows(questions(prefix, 12), 2048, None)) == 12


def test_a_sliding_window_shares_nothing_that_it_would_cut():
    rows = build_rows(questions(100, 6), 2048, 64)
    assert len(rows) == 12
    assert not any(row.branched for row in rows)


def test_a_model_that_bears_no_branches_gets_one_request_a_row():
    rows = build_rows(questions(100, 6), 2048, None, branches=False)
    assert not any(row.branched for row in rows)
    assert len(rows) == 12
    assert sorted(index for row in rows for index in set(row.request.tolist())) == list(range(12))


def test_answers_of_one_token_share_their_row_without_a_branch():
    """They are read from one place, so that there is nothing side by side."""
    letters = [(i, TokenRequest((i,), (1, 2, 3), (4 + i,))) for i in range(4)]
    (row,) = build_rows([letters], 2048, None, branches=False)
    assert not row.branched
    assert row.request.tolist() == [0, 1, 2, 3]
