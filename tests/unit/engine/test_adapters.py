"""The flat tensor of all factors, and the layer that uses them."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import Operations, packed_model
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.engine.adapters.bank import AdapterBank
from harness.engine.adapters.layout import Layout, Slot
from harness.engine.model.linear import Change
from harness.engine.model.packed import PackedLinear, PackedModel
from harness.errors import InputError

SLOTS = (
    Slot("model.layers.0.self_attn.q_proj", 6, 4),
    Slot("model.layers.0.mlp.up_proj", 10, 4),
    Slot("model.layers.0.mlp.down_proj", 4, 10),
    Slot("model.layers.1.self_attn.q_proj", 6, 4),
)
layouts = st.builds(
    lambda shapes, rank: Layout(tuple(Slot(f"layers.{i}.x_proj", m, n) for i, (m, n) in enumerate(shapes)), rank),
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=6),
    st.integers(1, 4),
)


def random(layout: Layout, trials: int = 3) -> torch.Tensor:
    return torch.randn(trials, layout.size, generator=torch.Generator().manual_seed(0))


def test_names_of_a_slot():
    assert (SLOTS[2].projection, SLOTS[3].layer, Slot("head", 1, 1).layer) == ("down_proj", "1", "-")


@given(layouts)
def test_every_column_belongs_to_one_factor(layout):
    taken = sorted(column for f in layout.factors for column in range(f.start, f.start + f.size))
    assert taken == list(range(layout.size))
    assert layout.size == sum(layout.rank * (s.in_features + s.out_features) for s in layout.slots)
    assert layout.a_size == sum(layout.rank * s.in_features for s in layout.slots)
    assert all((f.name == "A") == (f.start < layout.a_size) for f in layout.factors)


@given(layouts)
def test_split_gives_views_in_slot_order(layout):
    flat = random(layout)
    pairs = layout.split(flat)
    where = {(f.slot, f.name): f for f in layout.factors}
    for slot, pair in zip(layout.slots, pairs, strict=True):
        shapes = ((layout.rank, slot.in_features), (slot.out_features, layout.rank))
        for name, part, shape in zip("AB", pair, shapes, strict=True):
            factor = where[slot, name]
            assert part.shape == (3, *shape)
            assert torch.equal(part.flatten(1), flat[:, factor.start : factor.start + factor.size])
            assert part.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()


@given(layouts)
def test_norms_pair_up(layout):
    flat = random(layout)
    norm_a, norm_b = layout.norms(flat)
    a_slots = [f.slot for f in layout.factors[: len(layout.slots)]]
    pairs = dict(zip(layout.slots, layout.split(flat), strict=True))
    for position, slot in enumerate(a_slots):
        a, b = pairs[slot]
        assert torch.allclose(norm_a[:, position], a.flatten(1).norm(dim=1))
        assert torch.allclose(norm_b[:, layout.b_of_a[position]], b.flatten(1).norm(dim=1))


@given(layouts)
def test_scale_a_scales_each_a_of_each_trial_and_no_b(layout):
    flat = random(layout)
    by = torch.rand(3, len(layout.slots), generator=torch.Generator().manual_seed(1))
    scaled = flat.clone()
    layout.scale_a_(scaled, by)
    assert torch.equal(scaled[:, layout.a_size :], flat[:, layout.a_size :])
    for position, factor in enumerate(layout.factors[: len(layout.slots)]):
        columns = slice(factor.start, factor.start + factor.size)
        assert torch.equal(scaled[:, columns], flat[:, columns] * by[:, position, None])


def test_the_start_is_peft_s():
    layout = Layout((Slot("wide.0.q_proj", 5, 400), Slot("narrow.0.q_proj", 7, 25)), 64)
    row = layout.initial(3)
    assert (row[layout.a_size :] == 0).all()
    for slot, (a, _) in zip(layout.slots, layout.split(row[None]), strict=True):
        bound = slot.in_features**-0.5
        assert a.abs().max() <= bound
        assert a.abs().max() > 0.99 * bound
        assert a.var().item() == pytest.approx(1 / (3 * slot.in_features), rel=0.1)
        assert abs(a.mean().item()) < 0.05 * bound
    reference = torch.empty(64, 400)
    nn.init.kaiming_uniform_(reference, a=math.sqrt(5))
    assert reference.var().item() == pytest.approx(1 / 1200, rel=0.1)


def test_a_seed_means_the_same_numbers_in_every_pack():
    layout = Layout(SLOTS, 2)
    state = torch.random.get_rng_state()
    bank = AdapterBank(layout, [5, 6, 5], [2.0, 2.0, 1.0], torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is nobody's business"
    assert torch.equal(bank.values[0], layout.initial(5))
    assert torch.equal(bank.values[0], bank.values[2])
    assert not torch.equal(bank.values[0], bank.values[1])
    assert bank.values.dtype == torch.float32
    bank.values[0] += 1
    assert not torch.equal(bank.values[0], bank.values[2]), "rows with one seed are still two rows"


def test_factors_for_the_forward_pass_carry_each_trials_scaling():
    layout = Layout(SLOTS, 2)
    values = random(layout).requires_grad_()
    scaling = torch.tensor([2.0, 0.5, 0.0])
    pairs = [(change.a, change.b) for change in layout.changes(values, scaling, torch.bfloat16)]
    for (a, b), (want_a, want_b) in zip(pairs, layout.split(values), strict=True):
        assert a.dtype == b.dtype == torch.bfloat16
        assert torch.equal(a, want_a.bfloat16())
        assert torch.equal(b, (want_b * scaling[:, None, None]).bfloat16())
    sum(b.sum() for _, b in pairs).backward()
    assert torch.equal(values.grad[:, layout.a_size :], scaling[:, None].expand(-1, layout.size - layout.a_size))
    assert (values.grad[:, : layout.a_size] == 0).all()


@pytest.mark.parametrize("bias", [True, False])
def test_the_packed_layer_is_its_formula_and_has_its_gradient(bias):
    torch.manual_seed(0)
    base = nn.Linear(5, 4, bias=bias).double().requires_grad_(False)
    layer, plain = PackedLinear(base), base
    x, a, b = torch.randn(6, 3, 5), torch.randn(3, 2, 5), torch.randn(3, 4, 2)  # three trials, two rows each
    x, a, b = (t.double().requires_grad_() for t in (x, a, b))

    def forward(x, a, b):
        layer.take(Change(a, b))
        return layer(x)

    wanted = torch.cat([plain(x[2 * k : 2 * k + 2]) + x[2 * k : 2 * k + 2] @ a[k].T @ b[k].T for k in range(3)])
    assert torch.allclose(forward(x, a, b), wanted, atol=1e-12)
    assert torch.autograd.gradcheck(forward, (x, a, b))
    first = x.detach()  # of the first layer, which needs no gradient of x
    assert torch.autograd.gradcheck(lambda a, b: forward(first, a, b), (a, b))
    layer.take(None)
    assert torch.equal(layer(x), plain(x))


def test_factors_are_taken_away_again_even_after_an_error():
    model = packed_model()
    layout = model.layout(2)
    values = random(layout, 2)
    ids = torch.arange(3, 19).view(2, 8)
    base = model.hidden(ids)

    def fails():
        with model.adapted(layout, values, torch.ones(2)):
            assert not torch.equal(model.hidden(ids), base)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert torch.equal(model.hidden(ids), base)
    with model.adapted(layout, None, None):
        assert torch.equal(model.hidden(ids), base)


def test_a_last_layer_that_skips_the_rest_reads_the_same():
    model = packed_model()
    layout = model.layout(2)
    ids = torch.arange(3, 35).view(4, 8)
    at = torch.tensor([2, 7, 9, 18, 23, 25])  # of two trials of two rows, three places each
    with torch.no_grad(), model.adapted(layout, random(layout, 2), torch.ones(2)):
        wanted = model.hidden(ids).flatten(0, 1)[at]
        assert torch.allclose(model.hidden_at(at, ids), wanted, atol=1e-6)
        assert torch.equal(model.hidden(ids).flatten(0, 1)[at], wanted)  # and afterwards all of it is computed again


def test_all_seven_projections_of_a_layer_and_never_the_head():
    model = packed_model()
    assert len(model.slots) == 14
    assert {slot.projection for slot in model.slots} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    for slot, weight in model.weights():
        assert weight.shape == (slot.out_features, slot.in_features)


def test_other_layers_than_linear_are_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj = nn.Conv1d(2, 2, 1)

    odd = Odd()
    odd.config = odd.get_decoder = odd.get_output_embeddings = lambda: None
    odd.config.get_text_config = lambda: None
    with pytest.raises(InputError, match="q_proj is a Conv1d"):
        PackedModel(odd, ["q_proj"])


@pytest.mark.parametrize("vector", ["spectrum", "magnitude", "scale"])
def test_the_way_back_writes_a_row_a_few_times(vector):
    """A row of OSF on 135M is 350 MB, and a slice a matrix wrote 210 of them in each step."""

    def whole(layers: int) -> int:
        slots = tuple(Slot(f"layers.{i}.q_proj", 6, 4) for i in range(layers))
        layout = Layout(slots, 2, (vector,))
        values = random(layout).requires_grad_()
        changes = layout.changes(values, torch.ones(3), torch.float32)
        total = sum(part.sum() for change in changes for part in vars(change).values() if part is not None)
        with Operations() as operations:
            torch.autograd.grad(total, values)
        return sum(count for (_, shape), count in operations.found.items() if shape == tuple(values.shape))

    assert 0 < whole(2) == whole(9)


def test_columns_in_one_piece_are_the_same_change():
    a, b = torch.randn(3, 5, 7), torch.randn(3, 40, 5)
    along = Change(a, b).along_columns()
    assert torch.equal(along.b, b)
    assert along.b.mT.is_contiguous()
    assert along.a is a
    assert Change(dense=torch.ones(1, 2, 2)).along_columns().b is None
