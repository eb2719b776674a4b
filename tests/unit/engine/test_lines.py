"""Examples of all trials in one line: what lies where, and that nobody reads a neighbour, whatever it holds."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CPU, packed_model, random_examples, relative, tiny_model, with_demonstrations
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.engine import batches, lines
from harness.engine.adapters import AdapterBank, DenseLayout, Layout
from harness.engine.batches import Example, Pass, make_batch
from harness.engine.lines import cheapest, line_up
from harness.engine.model import attention, joining
from harness.engine.model.packed import PackedModel
from harness.engine.model.short_rows import causal_attention
from harness.engine.passes import forward_backward
from harness.engine.trunk import Trunk
from harness.method.losses import cross_entropy


@pytest.fixture(autouse=True)
def cheap_lines(monkeypatch):
    """Examples are so short here that their padding would be worth little."""
    monkeypatch.setattr(batches, "LINE_OVERHEAD", 0)
    monkeypatch.setattr(lines, "NEIGHBOURS_OVERHEAD", 16)


shapes = st.integers(1, 4).flatmap(
    lambda size: st.lists(st.lists(st.integers(1, 150), min_size=size, max_size=size), min_size=1, max_size=5)
)


@given(shapes)
def test_a_line_holds_every_sequence(shape):
    sequences = [np.arange(1, length + 1) for lengths in shape for length in lengths]
    ids, ends, line = line_up(sequences, len(shape), 0)
    for sequence, end in zip(sequences, ends, strict=True):
        assert ids[0, end - len(sequence) : end].tolist() == sequence.tolist()
        assert line.positions[0, end - len(sequence) : end].tolist() == list(range(len(sequence)))
    room = [most for count, most in line.neighbours for _ in range(count)]
    starts = np.cumsum([0, *room])
    assert ids.shape == line.positions.shape == (1, starts[-1])
    owners = np.repeat(np.arange(len(shape)), len(shape[0]))
    assert (starts[owners] < ends).all()
    assert (ends <= starts[owners + 1]).all()
    padding = len(ids[0]) - sum(map(sum, shape))
    assert (ids == 0).sum() == padding
    assert padding <= lines.NEIGHBOURS_OVERHEAD * (len(shape) - len(line.neighbours))


@given(shapes)
def test_what_is_alike_is_found_and_put_back(shape):
    sequences = [np.arange(1, length + 1) for lengths in shape for length in lengths]
    ids, _, line = line_up(sequences, len(shape), 0)
    read = torch.cat([alike.at.flatten() for alike in line.alike])
    assert read[line.back].tolist() == list(range(ids.shape[1]))
    assert sum(int(alike.real.sum()) for alike in line.alike) == ids.shape[1]
    for alike in line.alike:
        assert torch.equal(line.positions[0][alike.at][alike.real], alike.real.cumsum(1)[alike.real] - 1)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(1, 200), st.integers(0, 100), st.booleans())
def test_cuts_are_the_cheapest_that_fit(widths, budget, overhead, padded):
    """Against every way to cut."""

    def cost(cuts):
        groups = [widths[a:b] for a, b in itertools.pairwise(cuts)]
        rooms = [max(group) * len(group) if padded else sum(group) for group in groups]
        fits = all(room <= budget or len(group) == 1 for room, group in zip(rooms, groups, strict=True))
        return sum(room + overhead for room in rooms) if fits else None

    n = len(widths)
    every = [[0, *inner, n] for k in range(n) for inner in itertools.combinations(range(1, n), k)]
    least, found = cheapest(widths, budget, overhead, padded=padded)
    assert least == cost(found) == min(value for cuts in every if (value := cost(cuts)) is not None)


def loss(student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
    return cross_entropy(student, target)


def bank_of(model: PackedModel, kind: str, trials: int) -> AdapterBank:
    layout = DenseLayout(model.slots) if kind == "dense" else Layout(model.slots, 3, () if kind == "plain" else (kind,))
    bank = AdapterBank(layout, list(range(trials)), [2.0, 0.5, 1.0, 1.0][:trials], CPU)
    bank.values += 0.05 * torch.randn(bank.values.shape, generator=torch.Generator().manual_seed(0))
    return bank


#: Of four trials: neighbours that have equally many tokens, one that has more, and one that has nearly as many.
SHORT = random_examples(5, 0)
ROWS = [SHORT, SHORT[::-1], random_examples(5, 3, longest=30), random_examples(5, 4, longest=30)]


def gradient(model: PackedModel, bank: AdapterBank, passes: tuple[Pass, ...]) -> tuple[Tensor, Tensor]:
    found = [forward_backward(Trunk(model), bank.layout, loss, each, bank.values, bank.scaling) for each in passes]
    losses, gradients = (torch.stack(each).sum(0) for each in zip(*found, strict=True))
    return losses, gradients


@pytest.mark.parametrize("budget", [2**31, 120])
@pytest.mark.parametrize("kind", ["plain", "spectrum", "magnitude", "scale", "dense"])
def test_gradients_are_those_of_padded_rows(kind, budget):
    model = packed_model()
    bank = bank_of(model, kind, 4)
    padded, lined = (make_batch(ROWS, 0, CPU, budget, join=join).passes for join in (0, model.joins))
    assert all(each.student.line is not None for each in lined)
    assert len(lined) > 1 or budget > 120
    assert sum(each.student.ids.numel() for each in lined) < 0.8 * sum(each.student.ids.numel() for each in padded)
    for found, wanted in zip(gradient(model, bank, lined), gradient(model, bank, padded), strict=True):
        assert relative(found, wanted) < 1e-5


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_in_bfloat16_a_line_errs_no_more_than_padded_rows(family):
    shape: dict[str, Any] = {"sliding_window": None} if family == "mistral" else {}
    modules: list[Any] = [tiny_model(family, dtype=torch.bfloat16, **shape) for _ in range(2)]
    exact, model = PackedModel(modules[0].float()), PackedModel(modules[1])
    bank = bank_of(model, "plain", 4)
    padded, lined = (make_batch(ROWS, 0, CPU, join=join).passes for join in (0, model.joins))
    assert lined[0].student.line is not None
    wanted = gradient(exact, bank, padded)[1]
    off = [relative(gradient(model, bank, passes)[1], wanted) for passes in (lined, padded)]
    assert off[0] < 1.2 * off[1]


def test_a_trial_alone_has_the_gradient_that_it_has_in_a_pack():
    model = packed_model()
    bank = bank_of(model, "plain", 4)
    packed = gradient(model, bank, make_batch(ROWS, 0, CPU, join=model.joins).passes)[1]
    for row, examples in enumerate(ROWS):
        (each,) = make_batch([examples], 0, CPU, join=model.joins).passes
        values, scaling = bank.values[row : row + 1], bank.scaling[row : row + 1]
        alone = forward_backward(Trunk(model), bank.layout, loss, each, values, scaling)[1]
        assert relative(packed[row], alone[0]) < 1e-5


@pytest.mark.parametrize("kind", ["plain", "magnitude", "dense"])
def test_a_trial_that_is_lost_leaves_its_neighbours_alone(kind):
    model = packed_model()
    bank = bank_of(model, kind, 4)
    passes = make_batch(ROWS, 0, CPU, join=model.joins).passes
    wanted = gradient(model, bank, passes)
    for lost in range(4):
        others, kept = [k for k in range(4) if k != lost], bank.values[lost].clone()
        bank.values[lost] = torch.nan
        found = gradient(model, bank, passes)
        assert not found[0][lost].isfinite()
        for ours, theirs in zip(found, wanted, strict=True):
            assert torch.equal(ours[others], theirs[others])
        bank.values[lost] = kept


def test_a_teacher_reads_a_line_of_its_own_prompts(monkeypatch):
    monkeypatch.setitem(batches.PASS_OVERHEAD, "cpu", 10**6)  # padded rows are one pass, too
    model = packed_model()
    bank = bank_of(model, "plain", 4)
    rows = [with_demonstrations(examples) for examples in ROWS]
    (padded,), (lined,) = (make_batch(rows, 0, CPU, join=join).passes for join in (0, model.joins))
    assert lined.teacher.line is not None
    assert lined.teacher is not lined.student
    for name in ("target", "row", "position", "weight"):
        assert torch.equal(getattr(lined, name), getattr(padded, name))
    for values in (None, bank.values):
        found, wanted = (
            Trunk(model).states(bank.layout, each.teacher, values, bank.scaling) for each in (lined, padded)
        )
        assert relative(found, wanted) < 1e-5


def test_long_rows_are_padded():
    long, short = ([Example(np.arange(3, 3 + length), 2)] for length in (11, 5))
    for join, lined in ((11, True), (10, False)):
        (each,) = make_batch([long, short], 0, CPU, join=join).passes
        assert (each.student.line is not None) == lined


def test_rows_are_in_line_where_that_is_cheaper(monkeypatch):
    monkeypatch.setattr(batches, "LINE_OVERHEAD", 20)
    for longest, lined in ((24, False), (26, True)):
        rows = [[Example(np.arange(3, 3 + length), 2)] for length in (longest, 5)]
        (each,) = make_batch(rows, 0, CPU, join=256).passes
        assert (each.student.line is not None) == lined


def test_models_that_do_not_fit_keep_their_padding():
    assert packed_model("llama").joins == joining.LONGEST_IN_LINE
    assert packed_model("mistral").joins == 0, "a window"
    assert packed_model("gemma").joins == 0, "another family"
    plain: Any = tiny_model("llama")
    assert PackedModel(plain, ()).joins == 0, "attention is not ours"


def test_a_model_whose_rows_see_each_other_keeps_its_padding(monkeypatch):
    monkeypatch.setattr(attention, "line_attention", lambda q, k, v, line, scale: causal_attention(q, k, v, scale))
    assert packed_model("llama").joins == 0
