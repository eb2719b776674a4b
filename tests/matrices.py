"""Matrices with known singular values, updates of them, and the definition of intruder dimensions, for tests."""

from __future__ import annotations

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from harness.analysis.intruders import TOP_K

threadpool_limits(1, user_api="blas")  # these are so small that a second thread only waits


def random(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def base(shape: tuple[int, int], kind: str, seed: int = 0) -> torch.Tensor:
    """A matrix [m, n] with random singular vectors, and singular values of this kind."""
    u, d, vh = torch.linalg.svd(random(shape, seed), full_matrices=False)
    n = torch.arange(len(d), dtype=torch.float64)
    values = {
        "flat": d,
        "steep": 10 * 0.8**n,
        "power law": 10 / (1 + n) ** 0.7,
        "clustered": 10 - 0.05 * (n // 3) - 1e-7 * (n % 3),
        "repeated": 10 - 0.05 * (n // 3),
        "singular": torch.where(n < len(d) // 2, 10 - 0.05 * n, 0.0),
    }
    return u @ torch.diag(values[kind]) @ vh


def update(shape: tuple[int, int], rank: int, norm: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(A, B) with ||B A||_2 = ``norm`` and singular values over one decade."""
    a, b = random((rank, shape[1]), seed), random((shape[0], rank), seed + 1)
    b = b * torch.logspace(0, -1, rank, dtype=torch.float64)
    return a, b * (norm / torch.linalg.matrix_norm(b @ a, 2))


def by_svd(weight: torch.Tensor, delta: torch.Tensor, top_k: int = TOP_K) -> tuple[np.ndarray, np.ndarray]:
    """The definition: two full SVDs in fp64."""
    u0 = np.linalg.svd(weight.double().numpy(), full_matrices=False)[0]
    u, d, _ = np.linalg.svd((weight.double() + delta.double()).numpy(), full_matrices=False)
    return np.abs(u0.T @ u[:, :top_k]).max(axis=0), d[:top_k]
