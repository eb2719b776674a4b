"""OSF, by hand: what trains, where it starts, what is kept out of its gradients, and what it takes."""

from __future__ import annotations

import pytest
import torch
from helpers import batches, packed_model, random_examples, relative, train, trainer

from baselines import osf
from harness.engine.spectra import Spectra
from harness.errors import InputError
from harness.method.registry import methods
from harness.study.arms import expand_arms
from harness.study.config import Study
from harness.study.plan import Inputs, build_plan

RECIPE = osf.compose(osf.Settings())


def parts(engine, row: int):
    layout, values = engine.bank.layout, engine.bank.values
    pairs = zip(layout.split(values), layout.vector("spectrum", values), strict=True)
    return [(a[row], b[row], sizes[row]) for (a, b), sizes in pairs]


def test_it_starts_as_the_minor_part_taken_off_the_base():
    engine = trainer(packed_model(), [RECIPE], [1e-3])
    layout, below = engine.bank.layout, engine.bank.layout.frozen
    assert layout.rank == 16 == below.layout.rank, "half of 32, whatever the study's rank"
    assert below.layout.vectors == ()
    frozen = below.layout.split(below.values)
    for (_, weight), (a, b, sizes), (down, up) in zip(engine.model.weights(), parts(engine, 0), frozen, strict=True):
        count = min(weight.shape) // 2
        u, d, v = torch.linalg.svd(weight.double(), full_matrices=False)
        minor = ((u[:, -count:] * d[-count:]) @ v[-count:]).float()
        assert relative((b * sizes) @ a, minor) <= 1e-5
        assert relative((up @ down)[0], -minor) <= 1e-5
        assert not any(part.any() for part in (a[count:], b[:, count:], sizes[count:]))
    ranks = sum((min(w.shape) // 2) * (sum(w.shape) + 1) for _, w in engine.model.weights())
    assert engine.trained_numbers(0) == ranks, "what smaller matrices have no rank for does not count"


def test_gradients_are_orthogonal_to_the_leading_directions():
    engine = trainer(packed_model(), [RECIPE, RECIPE], [1e-3] * 2)
    rule = engine.updates["OrthogonalGradients"]
    gradient = torch.randn(engine.bank.values.shape, generator=torch.Generator().manual_seed(0))
    before = gradient.clone()
    rule.penalise(engine.bank, gradient)
    layout = engine.bank.layout
    both = zip(layout.split(gradient), layout.split(before), engine.model.weights(), strict=True)
    for (a, b), (old_a, old_b), (_, weight) in both:
        u, _, v = torch.linalg.svd(weight, full_matrices=False)
        count = min(weight.shape) // 2
        high_u, high_v = u[:, :count], v[:count]
        for row in range(2):
            assert relative(a[row], old_a[row] - old_a[row] @ high_v.T @ high_v) <= 1e-5
            assert relative(b[row], old_b[row] - high_u @ high_u.T @ old_b[row]) <= 1e-5
    for now, then in zip(layout.vector("spectrum", gradient), layout.vector("spectrum", before), strict=True):
        assert torch.equal(now, then)


def test_ranks_that_a_matrix_lacks_never_train():
    engine = trainer(packed_model(), [RECIPE], [1e-2])
    start = [tuple(part.clone() for part in each) for each in parts(engine, 0)]
    train(engine, batches([random_examples(24, 1)], 4, 6))
    for (_, weight), (a, b, sizes), before in zip(engine.model.weights(), parts(engine, 0), start, strict=True):
        count = min(weight.shape) // 2
        assert not a[count:].any()
        assert not b[:, count:].any()
        assert not sizes[count:].any()
        assert all(not torch.equal(now, then) for now, then in zip((a, b, sizes), before, strict=True))


def test_intruders_of_ranks_as_many_as_a_matrix_has(tmp_path):
    """Counted as those of a dense change: nothing is smaller than the matrix; the same as of full decompositions."""
    engine = trainer(packed_model(), [RECIPE], [1e-1])
    train(engine, batches([random_examples(24, 1)], 4, 6))
    scored = engine.scored(0, RECIPE)
    assert scored.layout.rank == 32
    measured = Spectra(engine.model, tmp_path).measure(scored.layout, scored.values[None], torch.ones(1))
    changes = scored.layout.changes(scored.values[None], torch.ones(1), torch.float64)
    for i, (change, (_, weight)) in enumerate(zip(changes, engine.model.weights(), strict=True)):
        u0 = torch.linalg.svd(weight.double(), full_matrices=False)[0]
        u = torch.linalg.svd(weight.double() + change.delta(weight)[0], full_matrices=False)[0]
        wanted = (u[:, :10].T @ u0).abs().max(1).values
        assert torch.allclose(torch.as_tensor(measured.best[i, 0]).double(), wanted, atol=1e-4)


def test_the_layout_with_a_spectrum_and_without_do_the_same():
    engine = trainer(packed_model(), [RECIPE], [1e-2])
    train(engine, batches([random_examples(12, 1)], 4, 3))
    layout, values = engine.bank.layout, engine.bank.values
    plain, folded = layout.plain(values)
    assert (plain.vectors, plain.rank) == ((), layout.rank)
    ones = torch.ones(1)
    for ours, theirs in zip(
        layout.changes(values, ones, torch.float32), plain.changes(folded, ones, torch.float32), strict=True
    ):
        assert relative(ours.b @ ours.a, theirs.b @ theirs.a) <= 1e-6


def test_under_reinit_it_starts_from_the_minor_part_again():
    recipe = RECIPE.under("reinit")
    engine = trainer(packed_model(), [recipe], [1e-2])
    start = parts(engine, 0)[0][0].clone()
    train(engine, batches([random_examples(12, 1)], 4, 3))
    engine.end_task()
    scored = engine.scored(0, recipe)
    engine.begin_task(1, [random_examples(40, 2)])
    assert torch.equal(parts(engine, 0)[0][0], start)
    now = engine.scored(0, recipe)
    one = torch.ones(1)
    both = (each.layout.changes(each.values[None], one, torch.float64) for each in (scored, now))
    for before, after in zip(*both, strict=True):
        assert relative(after.b @ after.a, before.b @ before.a) <= 1e-4


def test_its_packs_are_planned_as_small_as_dense_ones():
    """A model of 1e8 numbers on a card of 8 GB, three fifths of it for copies."""
    study = Study(
        model="m", seeds=(0, 1, 2, 3), streams={"a": ("t",)}, methods={"osf": {}, "lora": {}, "full_finetune": {}}
    )
    inputs = Inputs("m", {"t": "t"}, dict.fromkeys(methods(), "x"))

    def rows(copies: float) -> int:
        return max(1, min(16, int(0.6 * 8e9 / (4 * 1e8 * copies)))) if copies else 16

    sizes: dict[str, set[int]] = {}
    for pack in build_plan(study, methods(), inputs, 16, "s.yaml", rows).packs:
        sizes.setdefault(pack.trials[0].spec.method, set()).add(len(pack.rows))
    assert sizes == {"osf": {1}, "lora": {4}, "full_finetune": {1}}


def test_what_it_holds_hangs_on_what_it_keeps():
    """Numbers of a row over those of its matrices: eight times what trains, and what is kept."""
    for preserved in osf.Settings.grid(64)["preserved"]:
        recipe = osf.compose(osf.Settings(preserved=preserved))
        model = packed_model(intermediate_size=32, num_key_value_heads=4)  # all square
        engine = trainer(model, [recipe], [1e-3])
        kept = sum(part.numel() for pair in engine.updates["OrthogonalGradients"].leading for part in pair)
        trained = engine.bank.values.shape[1] - sum(
            t.shape[-1] for t in engine.bank.layout.vector("spectrum", engine.bank.values)
        )
        whole = sum(weight.numel() for _, weight in model.weights())
        assert recipe.adapter.dense_copies == pytest.approx((8 * trained + kept) / whole, rel=0.1)


def test_rank_means_nothing_to_it():
    assert not RECIPE.facts(control=False, study_between="continue").has_rank
    study = Study(model="m", seeds=(0,), streams={"a": ("t",)}, methods={"osf": {"adapter": {"rank": 4}}})
    with pytest.raises(InputError, match="have no rank"):
        expand_arms(study, methods(), "s.yaml")
