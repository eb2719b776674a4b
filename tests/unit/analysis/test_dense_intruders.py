"""Intruders of dense changes: the counts of full SVDs in fp64, bounds that hold, and the sizes of the change.

By block iteration from p = 40 on, by LAPACK, and on a GPU where there is one.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import base, by_svd, random

from harness.analysis.intruders import EPSILONS, DenseChange, Measured, analyse_dense, dense, piece, spectrum, summaries
from harness.analysis.intruders.bounds import by_eigh
from harness.analysis.intruders.certificate import none_above
from harness.analysis.intruders.problem import WholeProblems
from harness.analysis.intruders.results import DENSE, FALLBACK, SOLVER
from harness.analysis.intruders.solver import Ritz

#: (device, p from which on blocks are iterated)
WAYS = [("cpu", 40), ("cpu", 1536), *([("cuda", 40)] if torch.cuda.is_available() else [])]
SHAPES = [(24, 24), (16, 40), (110, 110), (100, 150), (150, 100)]
shaped = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(params=WAYS, ids=str)
def device(request, monkeypatch) -> str:
    name, blocks_from = request.param
    monkeypatch.setitem(piece.BLOCKS_FROM, name, blocks_from)
    return name


def way(shape: tuple[int, int], device: str) -> int:
    """How a matrix of this shape is solved where nothing stays open."""
    return SOLVER if min(shape) >= piece.BLOCKS_FROM[device] else DENSE


def change(weight: torch.Tensor, deltas: torch.Tensor, device: str = "cpu") -> DenseChange:
    """Of the trials deltas [T, m, n]."""
    weight, deltas = weight.to(device), deltas.to(device)
    return DenseChange(spectrum(weight[None]), weight, len(deltas), lambda trials: deltas[trials].double())


def one(weight: torch.Tensor, delta: torch.Tensor, device: str) -> Measured:
    return analyse_dense([change(weight, delta[None], device)])[0, 0]


def full_rank(weight: torch.Tensor, norm: float, seed: int = 5) -> torch.Tensor:
    """A change with ||dW||_2 = ``norm`` ||W0||_2."""
    delta = random(tuple(weight.shape), seed)
    return delta * norm * torch.linalg.matrix_norm(weight, 2) / torch.linalg.matrix_norm(delta, 2)


def check(found: Measured, weight: torch.Tensor, delta: torch.Tensor, *, degenerate: bool = False) -> None:
    """The counts of full SVDs where they are decided, which is always but where ``degenerate``, and true bounds."""
    cosines, sigmas = by_svd(weight, delta)
    assert found.sigmas == pytest.approx(sigmas, rel=1e-7, abs=1e-7 * sigmas[0])
    for epsilon in EPSILONS:
        low, high = found.bounds(epsilon)
        assert low <= found.count(epsilon) <= high
        assert low <= (cosines < epsilon).sum() <= high
        assert low == high or degenerate, f"undecided at {epsilon}"
    if not degenerate:
        assert found.best == pytest.approx(cosines, abs=1e-6)
        assert (found.low - 1e-12 <= cosines).all()
        assert (cosines <= found.high + 1e-12).all()
        assert (found.high - found.low).max() < 1e-4
    sizes(found, weight, delta)


def sizes(found: Measured, weight: torch.Tensor, delta: torch.Tensor) -> None:
    spread, top = np.linalg.svd(delta.numpy(), compute_uv=False), float(torch.linalg.matrix_norm(weight, 2))
    assert found.delta_norm == pytest.approx(float(delta.norm()), rel=1e-12)
    assert found.relative_spectral_norm == pytest.approx(spread[0] / top, rel=1e-12)
    share = spread[spread > 0] / max(spread.sum(), 1e-300)
    assert found.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()) if len(share) else 0, rel=3e-5)


# -- the same as full SVDs --------------------------------------------------------------------------------------------


@shaped
@pytest.mark.parametrize("kind", ["flat", "power law", "clustered"])
def test_the_same_as_full_svds(shape, kind, device):
    weight = base(shape, kind, 1)
    for norm in (0.0, 1e-6, 0.01, 0.1, 0.5, 1.2):
        delta = full_rank(weight, norm)
        found = one(weight, delta, device)
        check(found, weight, delta)
        assert found.solved == way(shape, device)


@shaped
@pytest.mark.parametrize("size", [3, 10, 1000])
def test_a_direction_that_stands_out_of_a_dense_change(shape, size, device):
    """As far from each of W0's vectors as can be; at 1,000 ||W0||_2 what rounding does to the others shows."""
    weight = base(shape, "power law")
    u = torch.linalg.svd(weight, full_matrices=False)[0]
    direction = u @ torch.sign(random((u.shape[1], 1), 1)) @ random((1, shape[1]), 2)
    delta = full_rank(weight, 0.05) + size * 10 * direction / torch.linalg.matrix_norm(direction, 2)
    found = one(weight, delta, device)
    check(found, weight, delta, degenerate=size == 1000)
    assert found.count() > 0
    assert found.solved == way(shape, device) or size == 1000


@cache
def at_half(shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """W0, and a change that takes the first cosine to 0.5: one that grows until it falls through it, by bisection."""
    weight, delta = base(shape, "power law", 1), full_rank(base(shape, "power law", 1), 1.0, 11)
    low, high = 0.0, 100.0
    for _ in range(40):  # to 1e-10 of 100, a hundredth of the smallest step below
        norm = (low + high) / 2
        low, high = (norm, high) if by_svd(weight, norm * delta)[0][0] >= 0.5 else (low, norm)
    return weight, norm * delta


@shaped
def test_an_intruder_planted_near_epsilon(shape, device):
    weight, delta = at_half(shape)
    for step in (1e-2, 1e-4, 1e-6, 1e-8):
        found = [one(weight, (1 + way * step) * delta, device) for way in (-1, 1)]
        assert (found[0].best[0] >= 0.5) != (found[1].best[0] >= 0.5)
        assert [f.low[0] <= 0.5 <= f.high[0] for f in found] == [False, False], "decided"
        check(found[1], weight, (1 + step) * delta)


@shaped
@pytest.mark.parametrize("kind", ["repeated", "singular"])
def test_equal_singular_values_leave_bounds(shape, kind, device):
    """Which vectors span a degenerate space is the library's choice, and with it the best cosine."""
    weight = base(shape, kind)
    for norm in (1e-10, 0.01, 0.5):
        delta = full_rank(weight, norm)
        check(one(weight, delta, device), weight, delta, degenerate=True)


@shaped
def test_equal_singular_values_at_the_cut_are_undecided(shape, device):
    """W has more equally long directions than fit into the top k, and k of them are anybody's choice."""
    weight, delta = base(shape, "steep"), torch.zeros(shape, dtype=torch.float64)
    left, right = (torch.linalg.qr(random((size, 12), size))[0] for size in shape)
    found = one(weight / 1e6, delta + 10 * left @ right.mT - weight / 1e6, device)
    assert found.solved == FALLBACK, "a full SVD was tried"
    low, high = found.bounds()
    assert low < high


@settings(max_examples=40)
@given(st.integers(1, 70), st.integers(1, 70), st.floats(1e-3, 100), st.integers(0, 10**6))
def test_bounds_hold_for_any_shape(m, n, norm, seed):
    before = dict(piece.BLOCKS_FROM)
    try:
        piece.BLOCKS_FROM["cpu"] = 40
        weight = random((m, n), seed)
        delta = full_rank(weight, norm, seed + 1)
        check(one(weight, delta, "cpu"), weight, delta, degenerate=True)
    finally:
        piece.BLOCKS_FROM.update(before)


def test_a_merge_in_bfloat16_is_no_longer_its_adapter(device):
    """Rounding has full rank: as much of it as there is update, here."""
    weight = base((110, 110), "flat").bfloat16().double()
    factors = random((110, 1), 1) @ random((1, 110), 2)
    merged = (weight + 0.05 * factors / factors.norm()).bfloat16().double()
    found = one(weight, merged - weight, device)
    assert found.effective_rank > 10
    check(found, weight, merged - weight)


# -- what is proven ---------------------------------------------------------------------------------------------------


def test_what_the_iteration_misses_is_found_by_a_decomposition(monkeypatch, device):
    """Without any step the Ritz pairs of the first basis are bad, and the certificate must say so."""
    monkeypatch.setattr("harness.analysis.intruders.block.STEPS", 0)
    weight = base((110, 110), "flat")
    found = one(weight, full_rank(weight, 1.2), device)
    check(found, weight, full_rank(weight, 1.2))
    assert found.solved == DENSE


@pytest.mark.parametrize("gap", [1e-2, 1e-7])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_missed_eigenvalue_is_noticed(gap, scale):
    """``gap`` is what float32 tells apart, or not."""
    values = torch.tensor([*np.linspace(3, 2, 10), 1 + gap, 1.0, *np.linspace(0.9, 0, 108)], dtype=torch.float64)
    turned = torch.linalg.qr(random((120, 120)))[0]
    problems = WholeProblems(scale * (turned * values) @ turned.mT[None])
    ritz, norm = by_eigh(problems.matrix, 11), torch.tensor([(3 * scale) ** 0.5], dtype=torch.float64)
    cut = torch.tensor([scale * (1 + gap / 2)], dtype=torch.float64)
    assert none_above(problems, ritz, cut, norm).tolist() == [True]
    without = torch.cat([ritz.vectors[:, :4], ritz.vectors[:, 5:]], dim=1)
    assert none_above(problems, Ritz(ritz.values[:, 1:], without), cut, norm).tolist() == [False]
    too_low = torch.tensor([scale * (1 - gap / 2)], dtype=torch.float64)
    assert none_above(problems, ritz, too_low, norm).tolist() == [False]


# -- many at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [1, 7 * 110**2, 2**27])
def test_many_are_each_by_itself(device, monkeypatch, numbers):
    """Matrices of several shapes and trials, cut into portions: in the order in which they were given."""
    monkeypatch.setitem(dense.SIDE_BY_SIDE, device, numbers)
    shapes = [(110, 150), (24, 40), (150, 110), (110, 110), (40, 24), (110, 150), (110, 110)]
    weights = [base(shape, "power law", seed) for seed, shape in enumerate(shapes)]
    deltas = [torch.stack([full_rank(w, norm, i) for norm in (0.0, 0.02, 0.7)]) for i, w in enumerate(weights)]
    found = analyse_dense([change(*pair, device) for pair in zip(weights, deltas, strict=True)])
    assert found.best.shape == (7, 3, 10)
    for s, (weight, some) in enumerate(zip(weights, deltas, strict=True)):
        for t, delta in enumerate(some):
            check(found[s, t], weight, delta)
    assert (found.best[:, 0] == 1).all()
    assert (found.effective_rank[:, 0] == 0).all()
    labels = [(str(shape), "0") for shape in shapes]
    whole = sum(way(shape, device) == DENSE for shape in shapes)
    assert [summary["full_svds"] for summary in summaries(found, labels)] == [whole] * 3


def test_smaller_matrices_have_fewer_directions():
    pairs = [(random((5, 9)), random((1, 5, 9), 1)), (random((30, 20), 2), random((1, 30, 20), 3))]
    found = analyse_dense([change(*pair) for pair in pairs])
    assert np.isnan(found.best[0, 0, 5:]).all()
    for s, (weight, delta) in enumerate(pairs):
        alone = one(weight, delta[0], "cpu")
        assert found.best[s, 0, : len(alone.best)] == pytest.approx(alone.best, abs=1e-12)


def test_threads_change_nothing(monkeypatch):
    """Two workers give the numbers of one, and the caller's threads are as before."""
    monkeypatch.setitem(piece.BLOCKS_FROM, "cpu", 96)
    weights = [base((130, 120), "power law", seed) for seed in range(3)]
    changes = [change(weight, full_rank(weight, 0.1, i)[None]) for i, weight in enumerate(weights)]
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(
                Measured.join([analyse_dense([c]) for c in changes]) if threads == 1 else analyse_dense(changes)
            )
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert (found[1].solved == SOLVER).all()
    for name in ("best", "sigmas", "effective_rank", "relative_spectral_norm"):
        assert getattr(found[0], name) == pytest.approx(getattr(found[1], name), rel=1e-9)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_change_that_is_not_finite_leaves_the_others_alone(value, device):
    weight = base((110, 130), "flat")
    deltas = torch.stack([full_rank(weight, 0.3, seed) for seed in range(3)])
    deltas[1, 7, 7] = value
    found = analyse_dense([change(weight, deltas, device)])
    assert found.finite.tolist() == [[True, False, True]]
    assert found.delta_norm[0, 1] == 0
    for trial in (0, 2):
        check(found[0, trial], weight, deltas[trial])
    assert [summary is None for summary in summaries(found, [("q_proj", "0")])] == [False, True, False]


@shaped
def test_a_change_that_cancels_the_base_leaves_nothing_decided(shape, device):
    """W is 0, so any vectors are its singular vectors."""
    weight = base(shape, "flat")
    found = one(weight, -weight, device)
    assert found.bounds() == (0, 10)
    assert found.relative_spectral_norm == pytest.approx(1)


@shaped
def test_a_base_of_zeros(shape, device):
    weight = torch.zeros(shape, dtype=torch.float64)
    found = one(weight, random(shape, 1), device)
    assert found.relative_spectral_norm == 0
    assert found.bounds() == (0, 10), "its vectors are any"
    assert one(weight, weight, device).count() == 0


def test_the_change_is_not_written_to(device):
    weight = base((110, 110), "flat").to(device)
    deltas = full_rank(weight.cpu(), 0.1)[None].to(device)
    kept = deltas.clone()
    analyse_dense([DenseChange(spectrum(weight[None]), weight, 1, lambda trials: deltas[trials])])
    assert torch.equal(deltas, kept)
