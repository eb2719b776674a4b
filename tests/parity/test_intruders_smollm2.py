"""Intruder counts of SmolLM2-135M's own matrices, every shape, against full SVDs in fp64: 315 low-rank, 105 dense.

On a GPU where there is one.
"""

from __future__ import annotations

import pytest
import torch

from harness.analysis.intruders import EPSILONS, DenseChange, Measured, analyse, analyse_dense, spectrum
from harness.data.models import model_ready, resolve_model
from harness.engine.model.load import load_model

MODEL = "smollm2-135m-instruct"
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS = ("1", "15", "29")
#: (rank, ||dW||_2 / ||W0||_2)
UPDATES = (
    (1, 0.3), (1, 1.5), (2, 0.6), (4, 0.05), (4, 1.0), (8, 0.0), (8, 0.001), (8, 0.1), (8, 0.6), (8, 1.2),
    (16, 0.3), (16, 1.5), (32, 0.1), (32, 0.8), (64, 0.4),
)  # fmt: skip

#: The same of dense changes: noise, and with it a direction that stands out.
DENSE = ((0.001, 0.0), (0.01, 0.0), (0.01, 0.3), (0.2, 0.0), (0.2, 1.2))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not model_ready(MODEL), reason="the model is not fetched"),
]


@pytest.fixture(scope="module")
def weights() -> dict[tuple[str, str], torch.Tensor]:
    model = load_model(resolve_model(MODEL).path, dtype=torch.bfloat16, device=torch.device("cpu"))
    return {(slot.projection, slot.layer): weight.detach().double() for slot, weight in model.weights()}


def full_svd_count(u0: torch.Tensor, weight: torch.Tensor) -> list[int]:
    u = torch.linalg.svd(weight, full_matrices=False)[0][:, :10]
    best = (u.mT @ u0).abs().amax(1)
    return [int((best < epsilon).sum()) for epsilon in EPSILONS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_counts_are_those_of_full_svds(weights, kind, layer):
    weight = weights[kind, layer]
    base, m, n = spectrum(weight[None]), *weight.shape
    found: list[Measured] = []
    for seed, (rank, norm) in enumerate(UPDATES):
        generator = torch.Generator().manual_seed(seed)
        a = torch.randn(rank, n, generator=generator).double()
        b = torch.randn(m, rank, generator=generator).double() * torch.logspace(0, -1, rank).double()
        b *= norm * base.d[0, 0] / torch.linalg.matrix_norm(b @ a, 2)
        measured = analyse(base, a[None, None], b[None, None])[0, 0]
        assert [measured.count(e) for e in EPSILONS] == full_svd_count(base.u[0].mT, weight + b @ a), (rank, norm)
        assert all((low, high) == (count, count) for low, high, count in bounds(measured)), "a count is undecided"
        found.append(measured)
    assert sum(int(measured.solved != 0) for measured in found) == 0, "a full SVD was needed"
    counts = [int(measured.count()) for measured in found]
    assert max(counts) > 0 == min(counts), "guards against agreeing on nothing"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_dense_counts_are_those_of_full_svds(weights, kind, layer):
    weight = weights[kind, layer].to(DEVICE)
    base, deltas = spectrum(weight[None]), []
    for seed, (noise, direction) in enumerate(DENSE):
        generator = torch.Generator().manual_seed(seed)
        spread = torch.randn(weight.shape, generator=generator).double()
        left, right = (torch.randn(size, generator=generator).double() for size in weight.shape)
        alone = torch.outer(left / left.norm(), right / right.norm())
        delta = noise * spread / torch.linalg.matrix_norm(spread, 2) + direction * alone
        deltas.append(delta.to(DEVICE) * base.d[0, 0])
    stack = torch.stack(deltas)
    found = analyse_dense([DenseChange(base, weight, len(stack), lambda trials: stack[trials])])
    for trial, delta in enumerate(deltas):
        measured = found[0, trial]
        assert [measured.count(e) for e in EPSILONS] == full_svd_count(base.u[0].mT, weight + delta), DENSE[trial]
        assert all((low, high) == (count, count) for low, high, count in bounds(measured)), "a count is undecided"
        share = torch.linalg.svdvals(delta)
        share = share / share.sum()
        assert measured.effective_rank == pytest.approx(float(torch.special.entr(share).sum().exp()), rel=1e-6)
    assert (found.solved == 1).sum() == 0, "a full SVD was needed"
    assert found.count()[0, -1] > 0 == found.count()[0, 0], "guards against agreeing on nothing"


def bounds(measured: Measured) -> list[tuple[int, int, int]]:
    return [(*map(int, measured.bounds(epsilon)), int(measured.count(epsilon))) for epsilon in EPSILONS]
