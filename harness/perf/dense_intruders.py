"""The part of ``lorabench perf intruders`` that times dense changes: full fine-tuning, DoRA, averages of products.

Agreement comes first here too: counts and sizes of a sample are those of full SVDs in fp64.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.analysis.intruders import EPSILONS, TOP_K, Measured
from harness.analysis.intruders.results import DENSE, FALLBACK
from harness.engine.adapters.layout import DenseLayout
from harness.engine.environment import synchronize
from harness.engine.spectra import Spectra
from harness.errors import LorabenchError

#: ||dW||_2 in units of ||W0||_2, in turn over matrices and trials: a short full fine-tuning to a new matrix.
SIZES = (0.01, 0.05, 0.3, 1.2)
#: Directions of a change that stand out of its noise, and the noise's share of its largest singular value.
DIRECTIONS, NOISE = 8, 0.25
#: Matrices of the first checkpoint that are compared with full SVDs; 13 apart they are of all types and sizes.
SAMPLE = 13


def dense_row(spectra: Spectra, weights: Sequence[Tensor], trials: int, repeats: int) -> dict[str, Any]:
    """Seconds of a checkpoint, wall and of all threads; raises LorabenchError where a full SVD says something else."""
    layout, device = DenseLayout(spectra.slots), weights[0].device
    values, scaling = _changes(layout, spectra, trials, device), torch.ones(trials, device=device)
    measured = spectra.measure(layout, values, scaling)  # a warm-up too
    compared = _agreement(spectra, weights, layout.split(values), measured)
    wall, cpu = [], []
    for _ in range(repeats):
        synchronize(device)
        start, used = time.perf_counter(), time.process_time()
        spectra.intruders(layout, values, scaling)
        synchronize(device)
        wall.append((time.perf_counter() - start) / trials)
        cpu.append((time.process_time() - used) / trials)
    low, high = measured.bounds()
    return {
        "number": len(weights),
        "sizes": SIZES,
        "seconds_per_checkpoint": statistics.median(wall),
        "cpu_seconds_per_checkpoint": statistics.median(cpu),
        "seconds": wall,
        "intruders": int(measured.count()[:, 0].sum()),
        "matrices_compared": compared,
        "decomposed_whole": int((measured.solved == DENSE).sum()),
        "fallbacks": int((measured.solved == FALLBACK).sum()),
        "undecided": int((low < high).sum()),
    }


def _changes(layout: DenseLayout, spectra: Spectra, trials: int, device: torch.device) -> Tensor:
    """[K, P]: a few directions by a power law, and noise of full rank; ``SIZES`` are met to some percent."""
    generator = torch.Generator(device).manual_seed(0)
    values = torch.empty(trials, layout.size, device=device)
    decay = (1 + torch.arange(DIRECTIONS, device=device)) ** -0.5
    for i, (part, base) in enumerate(zip(layout.split(values), spectra.each, strict=True)):
        _, m, n = part.shape
        for k, change in enumerate(part):
            left, right, noise = (
                torch.randn(size, generator=generator, device=device)
                for size in ((m, DIRECTIONS), (DIRECTIONS, n), (m, n))
            )
            standing_out = (left * decay / m**0.5) @ (right / n**0.5)
            wanted = SIZES[(i + k) % len(SIZES)] * float(base.d[0, 0])
            change.copy_(wanted * (standing_out + NOISE / (m**0.5 + n**0.5) * noise))
    return values


def _agreement(spectra: Spectra, weights: Sequence[Tensor], parts: Sequence[Tensor], measured: Measured) -> int:
    """How many of the first trial's matrices were compared; raises where one differs."""
    sample = range(0, len(weights), SAMPLE)
    for i in sample:
        w0, delta = weights[i].double(), parts[i][0].double()
        u0, d0, _ = torch.linalg.svd(w0, full_matrices=False)
        u = torch.linalg.svd(w0 + delta, full_matrices=False)[0]
        best = (u0.mT @ u[:, :TOP_K]).abs().amax(0)
        found, sigmas = measured[i, 0], torch.linalg.svdvals(delta)
        share = sigmas / sigmas.sum()
        sizes = np.array([float(sigmas[0] / d0[0]), float(torch.special.entr(share).sum().exp())])
        ours = np.array([found.relative_spectral_norm, found.effective_rank])
        counts = [(int((best < e).sum()), int(found.count(e))) for e in EPSILONS]
        if any(exact != count for exact, count in counts) or abs(ours / sizes - 1).max() > 1e-5:
            where = spectra.slots[i].module
            raise LorabenchError(f"(exact, ours) {counts}, sizes {sizes} and {ours}, by full SVDs in fp64", where=where)
    return len(sample)
