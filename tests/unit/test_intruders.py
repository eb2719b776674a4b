"""Intruder dimensions: known answers, and the same numbers as full SVDs give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.intruders import EPSILONS, TOP_K, analyse, analyse_dense, spectrum, summarise, summarise_by
from harness.store.records import Intruders

SHAPES = [(24, 24), (16, 40), (40, 16)]
shaped = pytest.mark.parametrize("shape", SHAPES, ids=["square", "wide", "tall"])


def random(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def separated(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Random singular vectors with singular values far apart, so that a small change turns none of them."""
    u, d, vh = torch.linalg.svd(random(shape, seed), full_matrices=False)
    return u @ torch.diag(10 * 0.8 ** torch.arange(len(d), dtype=torch.float64)) @ vh


def by_svd(weight: torch.Tensor, delta: torch.Tensor, top_k: int = TOP_K) -> tuple[np.ndarray, np.ndarray]:
    """The definition: two full SVDs in fp64."""
    u0 = np.linalg.svd(weight.double().numpy(), full_matrices=False)[0]
    u, d, _ = np.linalg.svd((weight.double() + delta.double()).numpy(), full_matrices=False)
    return np.abs(u0.T @ u[:, :top_k]).max(axis=0), d[:top_k]


@shaped
@pytest.mark.parametrize("scale", [0.0, 0.05, 2.0])
def test_a_dense_change_is_counted_as_by_full_svds(shape, scale):
    weight, delta = separated(shape), scale * random(shape, 3)
    found = analyse_dense(spectrum(weight), weight, delta)
    cosines, sigmas = by_svd(weight, delta)
    assert found.cosines == pytest.approx(cosines, abs=1e-7)
    assert found.sigmas == pytest.approx(sigmas, rel=1e-9)
    values = np.linalg.svd(delta.numpy(), compute_uv=False)
    assert found.delta_norm == pytest.approx(np.linalg.norm(values))
    share = values[values > 0] / values.sum() if scale else values[:0]
    assert found.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()) if scale else 0.0, rel=1e-6)
    with pytest.raises(ValueError, match="non-finite"):
        analyse_dense(spectrum(weight), weight, delta * np.inf if scale else delta + np.nan)


@shaped
def test_an_untouched_matrix_has_none(shape):
    weight = random(shape)
    result = analyse(spectrum(weight), random((4, shape[1])), torch.zeros(shape[0], 4), 2.0)
    assert result.count() == result.count(0.9) == 0
    assert result.cosines == pytest.approx(1.0, abs=1e-9)
    assert result.distance == pytest.approx(0, abs=1e-9)
    for name in ("delta_norm", "relative_spectral_norm", "effective_rank", "energy_share"):
        assert getattr(result, name) == 0


@shaped
def test_a_scaled_matrix_has_none(shape):
    """0.1 W0 as an adapter of full rank."""
    weight = random(shape)
    result = analyse(spectrum(weight), weight, torch.eye(shape[0]), 0.1)
    assert result.count(0.9) == 0
    assert result.distance == pytest.approx(0, abs=1e-6)
    assert result.relative_spectral_norm == pytest.approx(0.1)
    assert result.sigmas == pytest.approx(1.1 * torch.linalg.svdvals(weight)[:TOP_K].numpy())


@shaped
@pytest.mark.parametrize("seed", range(5))
def test_a_large_random_direction_is_exactly_one(shape, seed):
    weight = separated(shape, seed)
    a, u = random((1, shape[1]), 100 + seed), torch.linalg.svd(weight, full_matrices=False)[0]
    b = u @ torch.sign(random((u.shape[1], 1), 200 + seed))  # as far from every one of W0's vectors as can be
    result = analyse(spectrum(weight), a, b, 100 / float(a.norm() * b.norm()))
    assert result.count() == 1
    assert result.cosines[0] < 0.5, "and it is the first"
    assert result.energy_share == pytest.approx(result.sigmas[0] ** 2 / (result.sigmas**2).sum())
    assert result.energy_share > 0.9
    assert result.delta_norm == pytest.approx(100)
    assert result.relative_spectral_norm == pytest.approx(10)
    assert result.effective_rank == pytest.approx(1)


@shaped
def test_the_sign_of_a_singular_vector_means_nothing(shape):
    weight, a, b = random(shape), random((3, shape[1]), 1), random((shape[0], 3), 2)
    base = spectrum(weight)
    flipped = type(base)(-base.u, base.d, -base.v)
    wanted = analyse(base, a, b, 1.5)
    for result in (analyse(flipped, a, b, 1.5), analyse(base, -a, -b, 1.5), analyse(spectrum(-weight), a, -b, 1.5)):
        assert result.cosines == pytest.approx(wanted.cosines, abs=1e-9)
        assert result.count() == wanted.count()


def compare(shape, rank, scale, seed, top_k=TOP_K):
    weight, a, b = random(shape, seed), random((rank, shape[1]), seed + 1), random((shape[0], rank), seed + 2)
    delta = scale * b @ a
    result = analyse(spectrum(weight), a, b, scale, top_k)
    cosines, sigmas = by_svd(weight, delta, top_k)
    assert result.sigmas == pytest.approx(sigmas, rel=1e-7)
    gap = np.abs(np.diff(np.linalg.svd((weight + delta).numpy(), compute_uv=False)[: top_k + 1])).min(initial=np.inf)
    if gap > 1e-3 * sigmas[-1]:  # nearly equal singular values leave their vectors open
        assert result.cosines == pytest.approx(cosines, abs=1e-6)
        if np.abs(cosines - 0.5).min() > 1e-6:
            assert result.count() == (cosines < 0.5).sum()
            assert result.energy_share == pytest.approx((sigmas[cosines < 0.5] ** 2).sum() / (sigmas**2).sum())
    d = np.linalg.svd(delta.numpy(), compute_uv=False)
    d = d[d > 1e-12 * d[0]]
    assert result.delta_norm == pytest.approx(np.linalg.norm(delta.numpy()))
    assert result.relative_spectral_norm == pytest.approx(d[0] / np.linalg.norm(weight.numpy(), 2))
    share = d / d.sum()
    assert result.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)
    return result


@shaped
@pytest.mark.parametrize("rank", [1, 4, 8])
@pytest.mark.parametrize("scale", [1e-4, 0.1, 1.0, 30.0])
def test_the_same_as_full_svds(shape, rank, scale):
    compare(shape, rank, scale, seed=3)


def test_the_random_cases_have_intruders():
    """Guards the test above against agreeing on nothing."""
    assert compare((24, 24), 8, 1.0, 3).count() > 0
    assert compare((24, 24), 8, 1e-4, 3).count() == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 8), st.floats(1e-3, 100), st.integers(0, 10**6))
def test_the_same_as_full_svds_for_any_shape(m, n, rank, scale, seed):
    compare((m, n), min(rank, m, n), scale, seed)


@shaped
def test_a_rank_above_the_matrix_s(shape):
    weight, a, b = random(shape), random((50, shape[1]), 1), random((shape[0], 50), 2)
    result = analyse(spectrum(weight), a, b, 0.2)
    cosines, sigmas = by_svd(weight, 0.2 * b @ a)
    assert result.sigmas == pytest.approx(sigmas)
    assert result.cosines == pytest.approx(cosines, abs=1e-6)


def test_fewer_directions_than_top_k():
    result = compare((5, 9), 2, 1.0, 0)
    assert len(result.cosines) == len(result.sigmas) == 5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["a", "b"])
def test_non_finite_factors_are_an_error(value, which):
    factors = {"a": random((2, 6)), "b": random((5, 2))}
    factors[which][1, 1] = value
    with pytest.raises(ValueError, match="non-finite"):
        analyse(spectrum(random((5, 6))), factors["a"], factors["b"], 1.0)


def test_bf16_weights_are_taken_in_fp64():
    weight = random((8, 6)).bfloat16()
    base = spectrum(weight)
    assert base.u.dtype == torch.float64
    assert torch.allclose(base.u @ torch.diag(base.d) @ base.v.mT, weight.double(), atol=1e-12)


def test_summaries_add_up_and_are_what_a_record_holds():
    results = [compare((24, 24), 4, scale, seed) for seed, scale in enumerate((0.01, 1.0, 3.0))]
    labels = [("q_proj", "0"), ("up_proj", "0"), ("q_proj", "1")]
    found = summarise_by([(*label, result) for label, result in zip(labels, results, strict=True)])
    record = Intruders.model_validate(found)
    assert record.matrices == 3
    assert record.count == sum(r.count() for r in results) == record.by_epsilon["0.5"] > 0
    assert record.distance == pytest.approx(np.mean([r.distance for r in results]))
    assert list(record.by_epsilon) == [str(e) for e in EPSILONS]
    assert list(record.by_epsilon.values()) == sorted(record.by_epsilon.values())
    for groups in (record.by_type, record.by_layer):
        assert sum(group.count for group in groups.values()) == record.count
    assert record.by_type["q_proj"].matrices == record.by_layer["0"].matrices == 2
    assert summarise(results[:1])["delta_norm"] == results[0].delta_norm
