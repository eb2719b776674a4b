"""Rows of the packed scorer: every branch sees the prefix and itself, and every target is read from its place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.scoring.trees import TokenRequest, batch_rows, build_row, build_rows, common_prefix, tree_mask

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
    return np.flatnonzero(tree_mask(row.branch[None])[0, query]).tolist()


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
def test_a_branch_sees_the_prefix_and_itself(group):
    row = build_row(clipped(group))
    mask = tree_mask(row.branch[None])[0]
    for query in range(len(row.ids)):
        for key in range(len(row.ids)):
            wanted = key <= query and row.branch[key] in (0, row.branch[query])
            assert mask[query, key] == wanted


@given(groups())
def test_tokens_are_shared_and_none_is_lost(group):
    requests = clipped(group)
    row = build_row(requests)
    shared = common_prefix([inputs for _, inputs, _ in requests])
    assert len(row.ids) == shared + sum(len(inputs) - shared for _, inputs, _ in requests)
    assert (row.branch[:shared] == 0).all()
    assert (row.branch[shared:] > 0).all()
    assert len(row.target) == sum(len(targets) for *_, targets in requests)
    if len(requests) == 1:
        assert row.branches == 0


@given(st.lists(st.lists(TOKEN, max_size=6), min_size=1, max_size=5))
def test_common_prefix(sequences):
    length = common_prefix(sequences)
    assert all(sequence[:length] == sequences[0][:length] for sequence in sequences)
    assert any(len(s) == length for s in sequences) or len({s[length] for s in sequences}) > 1


def test_letters_need_no_branch():
    """Answers of one token have the same inputs: one row, no mask, all read from one place."""
    row = build_row(clipped([TokenRequest(("k", i), (7, 8, 9), (i,)) for i in range(4)]))
    assert row.branches == 0
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
    """Numbers are the caller's; branches never make a row longer than the context or the sliding window."""
    numbered, count = [], 0
    for group in many:
        numbered.append([(count + i, request) for i, request in enumerate(group)])
        count += len(group)
    rows = build_rows(numbered, length, window)
    found = {index: [] for index in range(count)}
    for row in rows:
        assert len(row.ids) <= length
        assert row.positions.max() < length
        if row.branches > 1 and window is not None:
            assert len(row.ids) <= window
        for index in dict.fromkeys(row.request.tolist()):
            found[index].append(row.target[row.request == index].tolist())
    wanted = {index: [list(request.continuation)] for group in numbered for index, request in group}
    assert found == wanted
    assert [len(row.ids) for row in rows] == sorted((len(row.ids) for row in rows), reverse=True)


@given(st.lists(groups(most=3), min_size=1, max_size=8), st.integers(1, 200), st.integers(1, 4))
def test_batches_keep_the_budget_and_lose_no_row(many, budget, trials):
    rows = build_rows([[(0, request) for request in group] for group in many], 100, None)
    batches = batch_rows(rows, budget, trials)
    assert sorted(id(row) for batch in batches for row in batch) == sorted(id(row) for row in rows)
    for batch in batches:
        padded = len(batch) * max(len(row.ids) for row in batch) * trials
        assert len(batch) == 1 or padded <= budget
        assert len({row.branches > 1 for row in batch}) == 1


@pytest.mark.parametrize("padding", [0, 1, 5])
def test_padding_is_seen_by_nothing_and_sees_something(padding):
    row = build_row(clipped([TokenRequest(("k", 0), (1, 2), (3, 0)), TokenRequest(("k", 1), (1, 2), (2, 0))]))
    real = len(row.ids)
    branch = np.concatenate([row.branch, np.full(padding, -1)])[None]
    mask = tree_mask(branch)[0]
    assert mask.shape == (real + padding, real + padding)
    assert np.array_equal(mask[:real, :real], tree_mask(row.branch[None])[0])
    assert not mask[:real, real:].any()
    assert mask.any(axis=1).all(), "an empty row of a softmax is NaN"


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=2, max_size=3))
def test_rows_of_requests_without_a_shared_prefix(bodies):
    """Nothing shared at all: every branch starts at position 0 and sees only itself."""
    requests = [(i, [100 + i, *body], body[-1:]) for i, body in enumerate(bodies)]
    row = build_row(requests)
    assert (row.branch > 0).all()
    starts = np.flatnonzero(row.positions == 0)
    assert row.ids[starts].tolist() == [100 + i for i in range(len(bodies))]
    assert all(sight(row, start) == [start] for start in starts)
