"""Intruder dimensions: known answers, the counts of full SVDs in fp64, and bounds that hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import base, by_svd, random, update

from harness.analysis.intruders import EPSILONS, TOP_K, Measured, analyse, spectrum, stacked, summaries
from harness.analysis.intruders import measure as measuring
from harness.analysis.intruders.certificate import count_above
from harness.analysis.intruders.problem import Eigenproblems
from harness.analysis.intruders.results import FALLBACK, SOLVER
from harness.store.intruders import Intruders

#: The small ones are solved densely, the others by the batched solver.
SHAPES = [(24, 24), (16, 40), (40, 16), (110, 110), (100, 150), (150, 100)]
shaped = pytest.mark.parametrize("shape", SHAPES, ids=str)


def one(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, **settings) -> Measured:
    return analyse(spectrum(weight[None]), a[None, None], b[None, None], **settings)[0, 0]


def compare(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, degenerate: bool = False) -> Measured:
    """The counts of full SVDs where they are decided, which is always but where ``degenerate``, and true bounds."""
    found = one(weight, a, b)
    cosines, sigmas = by_svd(weight, b @ a)
    assert found.sigmas == pytest.approx(sigmas, rel=1e-7, abs=1e-7 * sigmas[0])
    for epsilon in EPSILONS:
        low, high = found.bounds(epsilon)
        wanted = (cosines < epsilon).sum()
        assert low <= found.count(epsilon) <= high
        assert low <= wanted <= high
        assert low == high or degenerate, f"undecided at {epsilon}"
    if not degenerate:
        assert found.best == pytest.approx(cosines, abs=1e-6)
        assert (found.high - found.low).max() < 1e-4
    return found


# -- known answers ----------------------------------------------------------------------------------------------------


@shaped
@pytest.mark.parametrize("kind", ["flat", "repeated", "singular"])
def test_an_untouched_matrix_has_none(shape, kind):
    found = one(base(shape, kind), random((4, shape[1])), torch.zeros(shape[0], 4, dtype=torch.float64))
    assert found.count() == found.count(0.9) == 0
    assert found.bounds(0.9) == (0, 0)
    for name in ("distance", "delta_norm", "relative_spectral_norm", "effective_rank", "energy_share"):
        assert getattr(found, name) == 0


@shaped
def test_a_scaled_matrix_has_none(shape):
    """0.1 W0 as an adapter of full rank."""
    weight = base(shape, "steep")
    found = one(weight, weight, 0.1 * torch.eye(shape[0], dtype=torch.float64))
    assert found.count(0.9) == 0
    assert found.distance == pytest.approx(0, abs=1e-6)
    assert found.relative_spectral_norm == pytest.approx(0.1)
    assert found.sigmas == pytest.approx(1.1 * torch.linalg.svdvals(weight)[:TOP_K].numpy())


@shaped
@pytest.mark.parametrize("seed", range(3))
def test_a_large_random_direction_is_exactly_one(shape, seed):
    weight = base(shape, "steep", seed)
    a, u = random((1, shape[1]), 100 + seed), torch.linalg.svd(weight, full_matrices=False)[0]
    b = u @ torch.sign(random((u.shape[1], 1), 200 + seed))  # as far from every one of W0's vectors as can be
    found = one(weight, a, 100 * b / float(a.norm() * b.norm()))
    assert found.count() == 1
    assert found.best[0] < 0.5, "and it is the first"
    assert found.energy_share == pytest.approx(found.sigmas[0] ** 2 / (found.sigmas**2).sum())
    assert found.energy_share > 0.9
    assert found.delta_norm == pytest.approx(100)
    assert found.relative_spectral_norm == pytest.approx(10)
    assert found.effective_rank == pytest.approx(1)


@shaped
def test_the_sign_of_a_singular_vector_means_nothing(shape):
    weight, (a, b) = base(shape, "flat"), update(shape, 3, 1.0, 1)
    wanted = one(weight, a, b)
    for found in (one(weight, -a, -b), one(-weight, a, -b)):
        assert found.best == pytest.approx(wanted.best, abs=1e-7)
        assert found.count() == wanted.count()


def test_norms_and_rank_of_the_update():
    (a, b), weight = update((60, 40), 5, 3.0, 1), base((60, 40), "flat")
    found, d = one(weight, a, b), np.linalg.svd((b @ a).numpy(), compute_uv=False)[:5]
    share = d / d.sum()
    assert found.delta_norm == pytest.approx(np.linalg.norm((b @ a).numpy()))
    assert found.relative_spectral_norm == pytest.approx(3 / np.linalg.norm(weight.numpy(), 2))
    assert found.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()))


# -- the same as full SVDs: 390 cases, and those of hypothesis --------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 8, 16, 64])
@pytest.mark.parametrize("kind", ["flat", "power law", "clustered"])
@pytest.mark.parametrize("shape", SHAPES[2:], ids=str)
def test_the_same_as_full_svds(shape, kind, rank):
    weight = base(shape, kind, rank)
    for norm in (0.0, 0.001, 0.1, 0.5, 1.0, 1.5):
        compare(weight, *update(shape, rank, norm * float(torch.linalg.matrix_norm(weight, 2)), 3))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_intruder_planted_near_epsilon(shape):
    """A direction that grows until its cosine falls through 0.5: that norm by bisection, then near it on both sides."""
    weight, (a, b) = base(shape, "power law", 1), update(shape, 4, 1.0, 11)
    low, high = 0.0, 100.0
    for _ in range(50):
        norm = (low + high) / 2
        low, high = (norm, high) if by_svd(weight, norm * b @ a)[0][0] >= 0.5 else (low, norm)
    for step in (1e-2, 1e-4, 1e-6, 1e-8, 1e-9):
        counts = [int(compare(weight, a, norm * (1 + way * step) * b).count()) for way in (-1, 1)]
        found = one(weight, a, norm * (1 + step) * b)
        assert counts[0] != counts[1], "the same step on the other side of epsilon"
        assert abs(found.best[0] - 0.5) < 10 * step


@pytest.mark.parametrize("kind", ["repeated", "singular"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equal_singular_values_of_the_base_leave_bounds(shape, kind):
    """Which vectors span a degenerate space is the library's choice, and with it the best cosine."""
    weight = base(shape, kind)
    open_ = [compare(weight, *update(shape, 4, norm, 7), degenerate=True).bounds() for norm in (0.1, 5.0, 15.0)]
    assert kind == "singular" or any(low < high for low, high in open_)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equal_singular_values_at_the_cut_are_undecided(shape):
    """Directions of the update that are equally long, orthogonal to each other, and more than fit into the top k."""
    weight = base(shape, "steep") / 100
    left, right = (torch.linalg.qr(random((size, 12), size))[0] for size in shape)
    found = compare(weight * 0, right.mT, left, degenerate=True)
    assert found.solved == FALLBACK, "a full SVD was tried"
    low, high = found.bounds()
    assert low < high


def test_equal_singular_values_leave_the_others_decided():
    weight = base((110, 110), "steep")
    u, d, vh = torch.linalg.svd(weight)
    a, b = vh[2:3], (u[:, 2:3] * (d[1] - d[2]))  # makes the third value equal to the second, to rounding
    found = compare(weight, a, b, degenerate=True)
    width = found.high - found.low
    assert width[1:3].min() > 0.1
    assert np.delete(width, [1, 2]).max() < 1e-6


@settings(max_examples=60)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 8), st.floats(1e-3, 100), st.integers(0, 10**6))
def test_bounds_hold_for_any_shape(m, n, rank, norm, seed):
    compare(random((m, n), seed), *update((m, n), min(rank, m, n), norm, seed), degenerate=True)


def test_the_random_cases_have_intruders():
    """Guards the tests above against agreeing on nothing."""
    weight = base((110, 110), "flat")
    assert one(weight, *update((110, 110), 8, 30.0, 3)).count() > 0
    assert one(weight, *update((110, 110), 8, 1e-3, 3)).count() == 0


def test_the_solver_needs_no_fallback():
    solved = [
        one(base(shape, "flat"), *update(shape, rank, norm, rank)).solved
        for shape in SHAPES[3:] for rank in (1, 8, 20) for norm in (0.1, 5.0, 30.0)
    ]  # fmt: skip
    assert set(map(int, solved)) == {SOLVER}


def test_what_the_solver_misses_goes_to_a_full_svd(monkeypatch):
    """Without any step the Ritz pairs of the first basis are bad, and the certificate must say so."""
    monkeypatch.setattr("harness.analysis.intruders.solver.ROUNDS", 0)
    weight = base((110, 110), "flat")
    found = compare(weight, *update((110, 110), 20, 30.0, 3))
    assert found.solved == FALLBACK


# -- the certificate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 8, 40])
def test_the_inertia_count_is_that_of_the_eigenvalues(rank):
    d2 = torch.linspace(5, 0.1, 120, dtype=torch.float64)[None]
    problems = Eigenproblems.of(d2, random((1, rank, 120), 1) / 10, random((1, rank, 120), 2) / 10)
    values = torch.linalg.eigvalsh(problems.dense())[0]
    for cut in (-3.0, 0.05, 1.003, 4.9, 5.2, 9.0):
        assert int(count_above(problems, torch.tensor([cut]))[0]) == int((values > cut).sum())


def test_a_cut_on_an_eigenvalue_of_the_base_is_not_counted():
    problems = Eigenproblems.of(torch.tensor([[3.0, 2.0, 1.0]]).double(), random((1, 1, 3)), random((1, 1, 3), 1))
    assert int(count_above(problems, torch.tensor([2.0]).double())[0]) == -1


# -- batches, stacks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_batch_is_its_members(shape, monkeypatch):
    """Several matrices and updates at once, cut into pieces, as each by itself; some converge before others."""
    monkeypatch.setitem(measuring.BATCH, "cpu", 6 * min(shape))
    weights = torch.stack([base(shape, kind) for kind in ("flat", "steep", "power law", "flat")])
    pairs = [[update(shape, 4, norm, 10 * s + t) for t, norm in enumerate((0.0, 0.3, 12.0))] for s in range(4)]
    a, b = (torch.stack([torch.stack([pair[i] for pair in row]) for row in pairs]) for i in (0, 1))
    whole = analyse(spectrum(weights), a, b)
    assert whole.best.shape == (4, 3, TOP_K)
    for s in range(4):
        for t in range(3):
            alone = one(weights[s], a[s, t], b[s, t])
            assert whole.count()[s, t] == alone.count()
            for name in ("best", "sigmas", "delta_norm", "relative_spectral_norm", "effective_rank"):
                assert getattr(whole[s, t], name) == pytest.approx(getattr(alone, name), rel=1e-7, abs=1e-7)


def test_threads_change_nothing():
    """Two workers give the bits of one, and the caller's threads are as before."""
    weights = torch.stack([base((110, 110), "flat", seed) for seed in range(4)])
    a, b = (torch.stack([update((110, 110), 4, 20.0, seed)[i] for seed in range(4)])[:, None] for i in (0, 1))
    whole, found, before = spectrum(weights), [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            part = [analyse(whole[i : i + 2], a[i : i + 2], b[i : i + 2]) for i in (0, 2)]
            found.append(Measured.join(part) if threads == 1 else analyse(whole, a, b))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for name in ("best", "low", "high", "sigmas"):
        assert (getattr(found[0], name) == getattr(found[1], name)).all()


@shaped
def test_stacked_factors_are_the_sum(shape):
    """Adapters of three tasks that were merged, or an average of products: weights are part of the scale."""
    weight = base(shape, "flat")
    pairs = [(*update(shape, rank, 2.0, rank), scale) for rank, scale in ((2, 1.0), (4, 0.3), (3, -2.0))]
    found = one(weight, *stacked(pairs))
    delta = sum(scale * b @ a for a, b, scale in pairs)
    cosines, sigmas = by_svd(weight, delta)
    assert found.sigmas == pytest.approx(sigmas)
    assert found.best == pytest.approx(cosines, abs=1e-6)
    assert found.delta_norm == pytest.approx(float(delta.norm()))


# -- bad input --------------------------------------------------------------------------------------------------------


@shaped
def test_an_update_that_cancels_the_base_leaves_nothing_decided(shape):
    """W is 0, so any vectors are its singular vectors."""
    weight = base(shape, "flat")
    found = one(weight, weight, -torch.eye(shape[0], dtype=torch.float64))
    assert found.bounds() == (0, TOP_K)


@shaped
def test_a_rank_above_the_matrix_s(shape):
    weight, rank = base(shape, "flat"), max(shape) + 10
    a, b = random((rank, shape[1]), 1), 0.02 * random((shape[0], rank), 2)
    compare(weight, a, b)


def test_fewer_directions_than_top_k():
    found = compare(random((5, 9)), *update((5, 9), 2, 1.0, 0))
    assert found.best.shape == (5,)


def test_a_top_k_that_the_solver_has_no_room_for():
    weight, (a, b) = base((110, 110), "flat"), update((110, 110), 4, 30.0, 0)
    found = one(weight, a, b, top_k=40)
    assert found.best == pytest.approx(by_svd(weight, b @ a, 40)[0], abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1], ids=["a", "b"])
def test_non_finite_factors_leave_the_others_alone(value, which):
    factors = [random((1, 2, 2, 110)), random((1, 2, 100, 2))]
    weight = base((100, 110), "flat")[None]
    wanted = analyse(spectrum(weight), *factors)
    factors[which][0, 1, 1, 1] = value
    found = analyse(spectrum(weight), *factors)
    assert found.finite.tolist() == [[True, False]]
    assert found.best[0, 0] == pytest.approx(wanted.best[0, 0], abs=1e-9)
    summary = summaries(found, [("q_proj", "0")])
    assert summary[0] is not None
    assert summary[1] is None


def test_bf16_weights_are_taken_in_fp64():
    weight = random((8, 6)).bfloat16()
    found = spectrum(weight[None])
    assert found.u.dtype == torch.float64
    assert torch.allclose(found.weights()[0], weight.double(), atol=1e-12)


# -- summaries --------------------------------------------------------------------------------------------------------


def test_summaries_add_up_and_are_what_a_record_holds():
    weights = torch.stack([base((24, 24), "flat", seed) for seed in range(3)])
    pairs = [update((24, 24), 4, norm, seed) for seed, norm in enumerate((0.01, 10.0, 30.0))]
    a, b = (torch.stack([pair[i] for pair in pairs])[:, None] for i in (0, 1))
    labels = [("q_proj", "0"), ("up_proj", "0"), ("q_proj", "1")]
    measured = analyse(spectrum(weights), a, b)
    record = Intruders.of(summaries(measured, labels)[0])
    assert record.matrices == 3
    assert record.count == record.count_low == record.count_high == record.by_epsilon["0.5"] > 0
    assert (record.undecided, record.undecided_by_epsilon, record.fallbacks, record.full_svds) == (0, {}, 0, 0)
    assert 0 < record.cosine_error < 1e-6
    assert record.distance == pytest.approx(measured.distance.mean())
    assert list(record.by_epsilon) == [str(e) for e in EPSILONS]
    assert list(record.by_epsilon.values()) == sorted(record.by_epsilon.values())
    for groups in (record.by_type, record.by_layer):
        assert sum(groups.count.tolist()) == record.count
    assert record.by_type["q_proj"].matrices == record.by_layer["0"].matrices == 2
    assert record.by_type["up_proj"].delta_norm == pytest.approx(measured.delta_norm[1, 0])


def test_matrices_that_an_adapter_leaves_alone_do_not_count():
    weights = torch.stack([base((24, 24), "flat", seed) for seed in range(2)])
    a, b = (torch.stack([update((24, 24), 4, 10.0, seed)[i] for seed in range(2)])[:, None] for i in (0, 1))
    used = np.array([[True], [False]])
    (found,) = summaries(analyse(spectrum(weights), a, b), [("q_proj", "0"), ("v_proj", "0")], used)
    assert found["matrices"] == 1
    assert list(found["by_type"]) == ["q_proj"]
    assert found["distance"] == pytest.approx(float(one(weights[0], a[0, 0], b[0, 0]).distance))
