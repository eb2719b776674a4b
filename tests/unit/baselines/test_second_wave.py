"""Arms of the second wave that PEFT does not have, by hand; what stays where it starts; ranks that do not fit."""

from __future__ import annotations

import pytest
import torch
from helpers import ALPHA, RANK, batches, factors, packed_model, random_examples, relative, train, trainer

from baselines import clora, lora, lora_fa, mica, milora, olora, slao
from baselines.clora import KeepOut
from harness.engine.adapters.bank import AdapterBank
from harness.engine.adapters.layout import Layout, Slot
from harness.engine.optimizer import OptimizerSettings
from harness.engine.rows import Rows, RowSpec
from harness.errors import SettingError
from harness.method import MethodSettings

LORA = lora.compose(MethodSettings())
PLAIN = MethodSettings()


def weights_of(engine: Rows) -> dict[str, torch.Tensor]:
    return {slot.module: weight.double() for slot, weight in engine.model.weights()}


# -- where they start -------------------------------------------------------------------------------------------------


def test_milora_starts_as_the_minor_part_of_each_matrix():
    engine = trainer(packed_model(), [milora.compose(milora.Settings())], [1e-3])
    below = engine.bank.layout.frozen
    assert below is not None
    parts = factors(engine, engine.bank.values, 0)
    under = below.layout.split(below.values)
    for (module, weight), (down, up) in zip(weights_of(engine).items(), under, strict=True):
        u, d, v = torch.linalg.svd(weight, full_matrices=False)
        minor = (u[:, -RANK:] * d[-RANK:]) @ v[-RANK:]
        a, b = (part.double() for part in parts[module])
        assert relative(ALPHA / RANK * b @ a, minor) <= 1e-5
        assert relative((up @ down)[0].double(), -minor) <= 1e-5, "what is taken off the base"
        assert relative(a.square().sum(1), d[-RANK:] / (ALPHA / RANK)) <= 1e-4, "sizes are shared equally"
        assert relative(b.square().sum(0), a.square().sum(1)) <= 1e-4


def test_olora_starts_as_a_part_of_the_qr_decomposition():
    engine = trainer(packed_model(), [olora.compose(olora.Settings())], [1e-3])
    for module, weight in weights_of(engine).items():
        a, b = (part.double() for part in factors(engine, engine.bank.values, 0)[module])
        assert torch.allclose(b.T @ b, torch.eye(RANK, dtype=torch.double), atol=1e-5)
        assert relative((b @ a)[:, :RANK], weight[:, :RANK]) <= 1e-5, "the first columns are of the first directions"


def test_mica_writes_to_minor_directions_alone():
    recipe = mica.compose(PLAIN)
    engine = trainer(packed_model(), [recipe], [1e-2])
    train(engine, batches([random_examples(16, 1)], 4, 4))
    for module, weight in weights_of(engine).items():
        u, _, _ = torch.linalg.svd(weight, full_matrices=False)
        a, b = (part.double() for part in factors(engine, engine.bank.values, 0)[module])
        assert a.abs().max() > 0
        assert (u[:, :-RANK].T @ b @ a).abs().max() <= 1e-5 * (b @ a).abs().max()


@pytest.mark.parametrize(
    "method", [milora.compose(milora.Settings()), olora.compose(olora.Settings()), mica.compose(PLAIN)]
)
def test_a_rank_beyond_a_matrixs_directions_is_refused(method):
    """The smallest matrix of the model is [16, 32]."""
    rows = Rows(packed_model(), [RowSpec(method, 1e-3, 0)], 17, 34.0, OptimizerSettings())
    with pytest.raises(
        SettingError, match=r"rank 17 is larger than the 16 .* of model\.layers\.0\.self_attn\.k_proj"
    ) as e:
        rows.begin_task(0, [random_examples(4, 0)])
    assert e.value.key == "adapter.rank"
    assert "at most 16" in str(e.value.remedy)
    fits = Rows(packed_model(), [RowSpec(method, 1e-3, 0)], 16, 32.0, OptimizerSettings())
    fits.begin_task(0, [random_examples(4, 0)])
    assert fits.bank.values.isfinite().all()


# -- what stays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "fixed"), [
    (lora_fa.compose(lora_fa.Settings()), 0), (lora_fa.compose(lora_fa.Settings(projected=False)), 0),
    (mica.compose(PLAIN), 1),
])  # fmt: skip
def test_a_fixed_factor_stays_whatever_decays(method, fixed):
    engine = trainer(packed_model(), [method] * 2, [1e-2, 1e-3], weight_decay=0.1)
    before = [factors(engine, engine.bank.values, row) for row in range(2)]
    train(engine, batches([random_examples(16, seed) for seed in range(2)], 4, 4))
    slots, trained = engine.model.slots, engine.trained_numbers(0)
    assert trained == sum(RANK * (slot.in_features if fixed else slot.out_features) for slot in slots)
    for row in range(2):
        for module, now in factors(engine, engine.bank.values, row).items():
            assert torch.equal(now[fixed], before[row][module][fixed])
            assert not torch.equal(now[1 - fixed], before[row][module][1 - fixed])


def test_a_neighbour_of_what_stays_trains_all():
    """Whoever shares a pack with it has the numbers that it has alone; its clip is of what trains."""
    held = lora_fa.compose(lora_fa.Settings(projected=False))
    assert held.pack_key == LORA.pack_key
    data = [random_examples(16, 0)] * 2
    both = trainer(packed_model(), [held, LORA], [1e-2] * 2, [5, 5])
    plain = trainer(packed_model(), [LORA, LORA], [1e-2] * 2, [5, 5])
    for engine in (both, plain):
        train(engine, batches(data, 4, 4))
    assert torch.equal(both.bank.values[1], plain.bank.values[1])
    assert both.trained_numbers(1) == both.bank.layout.size > both.trained_numbers(0)


# -- CLoRA ------------------------------------------------------------------------------------------------------------


def test_clora_by_hand():
    """The gradient of the penalty, for subspaces that are what they should be; by autograd as well."""
    slot = Slot("layers.0.q_proj", 4, 6)
    bank = AdapterBank(Layout((slot,), 2), [3, 4, 5], [1.0] * 3, torch.device("cpu"))
    bank.values.copy_(torch.randn(3, bank.layout.size, generator=torch.Generator().manual_seed(1)))
    bound = KeepOut.bind([KeepOut(2.0, 0.5), None, KeepOut(2.0, 0.25)], bank)
    [(p_in, p_out)] = bound.subspaces
    assert [int((p_in[row] != 0).any(0).sum()) for row in range(3)] == [3, 0, 2]
    assert torch.allclose(p_in[0].T @ p_in[0], torch.eye(3), atol=1e-6)
    assert torch.allclose(p_out[0].T @ p_out[0], torch.eye(2), atol=1e-6)
    assert not torch.allclose(p_in[0, :, :2], p_in[2, :, :2]), "another trial has another subspace"
    gradient = torch.ones(3, bank.layout.size)
    bound.penalise(bank, gradient)
    values = bank.values.clone().requires_grad_()
    [(a, b)] = bank.layout.split(values)
    penalty = sum(
        2.0 / 2 * ((a[row] @ p_in[row]).square().sum() + (b[row].T @ p_out[row]).square().sum()) for row in (0, 2)
    )
    penalty.backward()
    assert torch.allclose(gradient, 1 + values.grad, atol=1e-5)
    assert torch.equal(gradient[1], torch.ones(bank.layout.size)), "the row without the rule"


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_clora_draws_orthonormal_columns(share):
    width, count = 96, clora.width_of(share, 96)
    drawn = torch.randn(3, width, count, generator=torch.Generator().manual_seed(0))
    drawn[1] = 0
    drawn[2, :, 1 + count // 2 :] = 0  # of a smaller share
    found = clora.orthonormal(drawn)
    assert not found[1].any()
    assert torch.equal(found[2] == 0, drawn[2] == 0)
    for row, columns in ((0, count), (2, min(count, 1 + count // 2))):
        kept = found[row, :, :columns]
        torch.testing.assert_close(kept.mT @ kept, torch.eye(columns), atol=1e-5, rtol=0)
        wanted = torch.linalg.qr(drawn[row, :, :columns].double())[0]
        torch.testing.assert_close((kept @ kept.mT).double(), wanted @ wanted.mT, atol=1e-5, rtol=0)


def test_clora_keeps_the_change_out_of_its_subspace():
    rows = [clora.compose(clora.Settings(strength=100.0, subspace=0.25)), LORA]
    engine = trainer(packed_model(), rows, [1e-2] * 2, [1, 1])
    train(engine, batches([random_examples(240, 1)] * 2, 4, 60))
    for (a, b), (p_in, p_out) in zip(
        engine.bank.layout.split(engine.bank.values), engine.updates["KeepOut"].subspaces, strict=True
    ):
        inside = [float((b[row] @ a[row] @ p_in[0]).norm() / (b[row] @ a[row]).norm()) for row in range(2)]
        written = [float((p_out[0].T @ b[row] @ a[row]).norm() / (b[row] @ a[row]).norm()) for row in range(2)]
        assert inside[0] < 0.3 * inside[1]
        assert written[0] < 0.3 * written[1]


# -- SLAO -------------------------------------------------------------------------------------------------------------


def test_slao_by_hand():
    recipe = slao.compose(PLAIN)
    engine = trainer(packed_model(), [recipe], [1e-2])
    merge = None
    for task in range(3):
        if task:
            old = factors(engine, engine.bank.values, 0)
            engine.begin_task(task, [random_examples(40, task)])
            assert not engine.optimizer.state()["mean"].any(), "moments are a task's own"
            for module, (a, b) in factors(engine, engine.bank.values, 0).items():
                assert torch.allclose(a @ a.T, torch.eye(RANK), atol=1e-5)
                assert torch.equal(b, old[module][1])
                triangle = old[module][0] @ a.T  # R^T, as A_old^T = Q R
                assert triangle.triu(1).abs().max() <= 1e-5
                assert (triangle.diagonal() > 0).all()
        train(engine, batches([random_examples(16, task)], 4, 4))
        now = factors(engine, engine.bank.values, 0)
        share = (task + 1) ** -0.5
        b = {m: pair[1] if merge is None else merge[m] + share * (pair[1] - merge[m]) for m, pair in now.items()}
        for when in ("while it trains", "when it has ended"):
            if when == "when it has ended":
                engine.end_task()
            scored = engine.scored(0, recipe)
            for module, (a, found) in factors(engine, scored.values[None], 0).items():
                assert torch.equal(a, now[module][0]), when
                assert torch.allclose(found, b[module], atol=1e-7), when
        merge = b


def test_slao_after_one_task_is_plain_lora():
    engine = trainer(packed_model(), [slao.compose(PLAIN)], [1e-2], [3])
    plain = trainer(packed_model(), [LORA], [1e-2], [3])
    for each in (engine, plain):
        train(each, batches([random_examples(16, 3)], 4, 4))
    assert torch.equal(engine.scored(0, slao.compose(PLAIN)).values, plain.scored(0, LORA).values)


def test_slao_meets_the_tasks_one_after_the_other():
    facts = slao.compose(PLAIN).facts(control=False, study_between="continue")
    assert (facts.sequential, facts.between, facts.scored) == (True, "fresh", "average")
