"""Batches: which tokens count, whose they are, and that packing and padding change neither."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import CPU, random_examples
from hypothesis import given
from hypothesis import strategies as st

from harness.engine import batches
from harness.engine.batches import Example, Sequences, draw, make_batch

PAD = 99


def example(ids: list[int], answer_start: int) -> Example:
    return Example(np.array(ids), answer_start)


def test_known_answer():
    batch = make_batch([[example([5, 6, 7, 8], 2)], [example([1, 2], 1)]], PAD, CPU)
    (each,) = batch.passes
    assert each.student.ids.tolist() == [[5, 6, 7, 8], [1, 2, PAD, PAD]]
    assert each.student.source.tolist() == [1, 2, 4]  # the position before each answer token, in [2 * 4] states
    assert each.target.tolist() == [7, 8, 2]
    assert each.row.tolist() == [0, 0, 1]
    assert each.position.tolist() == [0, 1, 0]
    assert each.weight.tolist() == [0.5, 0.5, 1.0]
    assert batch.tokens == (4, 2)
    assert batch.real_tokens == 6


shapes = st.integers(1, 4).flatmap(
    lambda size: st.lists(
        st.lists(st.tuples(st.integers(2, 9), st.integers(1, 8)), min_size=size, max_size=size), min_size=1, max_size=4
    )
)


@given(shapes, st.sampled_from([1, 10, 30, 2**31]), st.sampled_from([0, 9]))
def test_every_answer_token_counts_once(shape, budget, join):
    rng = np.random.default_rng(0)
    rows = [[Example(rng.integers(0, 90, size=n), min(start, n - 1)) for n, start in trial] for trial in shape]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "LINE_OVERHEAD", -(10**6))  # always the cheaper way
        batch = make_batch(rows, PAD, CPU, budget, join=join)
    assert batch.tokens == tuple(sum(len(e.ids) for e in trial) for trial in rows)
    found = [[] for _ in rows]
    weights = torch.zeros(len(rows), dtype=torch.float64)
    for each in batch.passes:
        ids, source = each.student.ids, each.student.source
        assert torch.equal(ids.flatten()[source + 1], each.target), "the state before a token predicts it"
        if join:
            assert each.student.line is not None
            trials = torch.tensor([most for count, most in each.student.line.neighbours for _ in range(count)])
            owner = torch.repeat_interleave(torch.arange(len(rows)), trials)
            assert torch.equal(owner[source], each.row)
            assert ids.numel() <= budget or (each.position == 0).sum() == len(rows), (
                "over budget only with a row a trial"
            )
        else:
            assert ids.numel() <= budget or ids.shape[0] == len(rows), "over budget only with a row a trial"
            assert torch.equal(source // ids.shape[1] // (ids.shape[0] // len(rows)), each.row)
        assert (each.target != PAD).all()
        for row, position, target in zip(each.row, each.position, each.target, strict=True):
            found[row].append((int(position), int(target)))
        weights.index_add_(0, each.row, each.weight.double())
    wanted = [[(i, int(t)) for e in trial for i, t in enumerate(e.ids[e.answer_start :])] for trial in rows]
    assert [sorted(pairs) for pairs in found] == [sorted(pairs) for pairs in wanted]
    assert torch.allclose(weights, torch.ones_like(weights), atol=1e-6), "a mean over each trial's own answer tokens"


def joined_rows(sequences: Sequences) -> list[list[tuple[list[int], list[int]]]]:
    """(ids, positions) of every example of every row."""
    joined = sequences.joined
    assert joined is not None
    return [
        [(ids[a:b].tolist(), positions[a:b].tolist()) for a, b in itertools.pairwise(starts.tolist())]
        for ids, positions, starts in zip(sequences.ids, joined.positions, joined.starts, strict=True)
    ]


@given(shapes, st.integers(1, 9), st.booleans())
def test_joined_rows_hold_the_same_without_padding(shape, join, shown):
    rng = np.random.default_rng(0)
    rows = [[Example(rng.integers(0, 90, size=n), min(start, n - 1)) for n, start in trial] for trial in shape]
    if shown:
        rows = [[replace(e, shown=np.arange(e.answer_start)) for e in trial] for trial in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "IN_LINE", ())  # as on a GPU
        (padded,), (found,) = (make_batch(rows, PAD, CPU, join=limit).passes for limit in (0, join))
    for name in ("target", "row", "position", "weight"):
        assert torch.equal(getattr(padded, name), getattr(found, name))
    for sequences, of in ((found.student, lambda e: e.ids), (found.teacher, lambda e: e.teacher_ids)):
        lengths = [[len(of(e)) for e in trial] for trial in rows]
        if sequences.joined is None:
            assert max(map(max, lengths)) > join
            continue
        assert max(map(max, lengths)) <= sequences.joined.longest < 2 * max(map(max, lengths))
        assert sequences.ids.shape == (len(rows), max(map(sum, lengths)))
        for got, trial in zip(joined_rows(sequences), rows, strict=True):
            examples = sorted(trial, key=lambda e: -max(len(e.ids), e.teacher_length))
            assert got == [(of(e).tolist(), list(range(len(of(e))))) for e in examples]
        assert torch.equal(sequences.ids.flatten()[sequences.source + 1], found.target)
        assert torch.equal(sequences.source // sequences.ids.shape[1], found.row)
    assert (found.teacher is found.student) == (not shown)


def test_a_budget_keeps_long_rows_from_stretching_short_ones(monkeypatch):
    monkeypatch.setitem(batches.PASS_OVERHEAD, "cpu", 10**6)
    rows = [[*random_examples(8, seed, shortest=4, longest=6), example(list(range(40)), 39)] for seed in (0, 1)]
    whole, cut = (make_batch(rows, PAD, CPU, budget) for budget in (2**31, 100))
    assert len(whole.passes) == 1
    assert sum(each.student.ids.numel() for each in cut.passes) < 0.5 * whole.passes[0].student.ids.numel()


def test_neighbours_do_not_change_an_example_s_weight_or_target():
    mine, other = random_examples(3, 0), random_examples(3, 1, longest=20)
    (alone,), (packed,) = make_batch([mine], PAD, CPU).passes, make_batch([other, mine], PAD, CPU).passes
    for name in ("target", "position", "weight"):
        assert torch.equal(getattr(packed, name)[packed.row == 1], getattr(alone, name))


def test_truncation_keeps_the_answer():
    whole = example(list(range(10)), 7)
    cut = whole.truncated(5)
    assert cut.ids.tolist() == [5, 6, 7, 8, 9]
    assert cut.ids[cut.answer_start :].tolist() == [7, 8, 9]
    assert whole.truncated(10) is whole
    # An answer longer than the window loses its beginning; the first token left has nothing to be predicted from.
    assert whole.truncated(2).answer_start == 1


@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 2**63 - 1))
def test_draw_is_one_pass_without_repeats(examples, available, seed):
    indices = draw(examples, available, seed)
    assert len(indices) == min(examples, available)
    assert len(set(indices.tolist())) == len(indices)
    assert all(0 <= i < available for i in indices)
    assert np.array_equal(indices, draw(examples, available, seed))
    # A longer budget goes on where a shorter one stopped.
    assert np.array_equal(draw(available, available, seed)[: len(indices)], indices)


def test_seeds_draw_differently():
    assert not np.array_equal(draw(50, 50, 1), draw(50, 50, 2))
