"""Intruder counts of SmolLM2-135M's own matrices, every shape, against full SVDs in fp64: 315 cases."""

from __future__ import annotations

import pytest
import torch

from harness.analysis.intruders import EPSILONS, Measured, analyse, spectrum
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


def bounds(measured: Measured) -> list[tuple[int, int, int]]:
    return [(*map(int, measured.bounds(epsilon)), int(measured.count(epsilon))) for epsilon in EPSILONS]
