"""Intruder dimensions (arXiv 2410.21228): singular directions of W0 + dW that are like none of W0's.

Definition: among the top k = 10 left singular vectors of W = W0 + s B A, by singular value, count those whose largest
|cosine| with ANY left singular vector of W0 is below eps = 0.5.

The count here is that of full SVDs, by a smaller exact problem.  With W0 = U D V^T and p = min(m, n):

* m <= n: in the basis U, W W^T is D^2 + P X^T + X P^T, with X = s U^T B, Y = V^T A^T, P = D Y + X (A A^T) / 2.
  Its eigenvectors are the left singular vectors in coordinates of U, so the cosines with all of W0's vectors are simply
  their entries.
* m > n: in the basis V, W^T W is D^2 + Q Y^T + Y Q^T, with Q = D X + Y (s^2 B^T B) / 2; the left singular vector of an
  eigenvector v has the coordinates (D v + X (Y^T v)) / sigma in U.

Both are p x p and solved in fp64, so squaring costs the top k no accuracy that matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

TOP_K = 10
EPSILON = 0.5
#: From this p on, Lanczos is faster than LAPACK on a CPU.
LANCZOS_FROM = 256
EPSILONS = tuple(round(0.1 * i, 1) for i in range(1, 10))


@dataclass(frozen=True)
class Spectrum:
    """Thin SVD of one W0 [m, n] in fp64: U [m, p], D [p] falling, V [n, p]."""

    u: Tensor
    d: Tensor
    v: Tensor


@dataclass(frozen=True)
class MatrixResult:
    """One matrix of one trial."""

    cosines: np.ndarray  # [k], best |cosine| of each top singular vector, by falling singular value
    sigmas: np.ndarray  # [k]
    delta_norm: float  # ||dW||_F
    relative_spectral_norm: float  # ||dW||_2 / ||W0||_2
    effective_rank: float  # exp(entropy of dW's normalised singular values), 0 where dW = 0

    def count(self, epsilon: float = EPSILON) -> int:
        return int((self.cosines < epsilon).sum())

    @property
    def distance(self) -> float:
        return float(1 - self.cosines.mean())

    @property
    def energy_share(self) -> float:
        """sigma^2 of the intruders over sigma^2 of the top k."""
        energy = self.sigmas**2
        return float(energy[self.cosines < EPSILON].sum() / energy.sum()) if energy.sum() else 0.0


def spectrum(weight: Tensor) -> Spectrum:
    """The SVD of a base matrix, in fp64; paid once a model (:mod:`harness.engine.spectra` caches it)."""
    u, d, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    return Spectrum(u, d, vh.mT.contiguous())


def analyse(base: Spectrum, a: Tensor, b: Tensor, scale: float, top_k: int = TOP_K) -> MatrixResult:
    """Intruders of W0 + scale * B A, with A [r, n] and B [m, r].

    Raises :class:`ValueError` for non-finite factors.
    """
    a, b = a.double(), scale * b.double()
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("the adapter has non-finite entries")
    delta = _singular_values(a, b)
    x, y = base.u.mT @ b, (a @ base.v).mT  # X [p, r], Y [p, r]
    d = base.d[:, None]
    wide = base.u.shape[0] <= base.v.shape[0]
    if wide:
        left, right = d * y + 0.5 * x @ (a @ a.mT), x
    else:
        left, right = d * x + 0.5 * y @ (b.mT @ b), y
    values, vectors = _top_eigenpairs(base.d**2, left, right, min(top_k, len(base.d)))
    sigmas = values.clamp(min=0).sqrt()
    if not wide:
        vectors = (d * vectors + x @ (y.mT @ vectors)) / sigmas.clamp(min=torch.finfo(torch.float64).tiny)
    cosines = vectors.abs().amax(0).clamp(max=1.0)
    return _result(base, cosines, sigmas, delta)


def analyse_dense(base: Spectrum, weight: Tensor, delta: Tensor, top_k: int = TOP_K) -> MatrixResult:
    """Intruders of W0 + delta for a change [m, n] of any rank, with W0 itself as ``weight``, in fp64.

    From the eigenproblems of W W^T or W^T W and of delta's, whichever are smaller, as above.
    Raises :class:`ValueError` for a change that is not finite.
    """
    if not delta.isfinite().all():
        raise ValueError("the change has non-finite entries")
    delta = delta.double()
    whole = weight.double() + delta
    wide = whole.shape[0] <= whole.shape[1]
    values, vectors = torch.linalg.eigh(whole @ whole.mT if wide else whole.mT @ whole)
    sigmas, vectors = values.flip(0)[:top_k].clamp(min=0).sqrt(), vectors.flip(1)[:, :top_k]
    if not wide:
        vectors = whole @ vectors / sigmas.clamp(min=torch.finfo(torch.float64).tiny)
    cosines = (base.u.mT @ vectors).abs().amax(0).clamp(max=1.0)
    changed = torch.linalg.eigvalsh(delta @ delta.mT if wide else delta.mT @ delta).flip(0).clamp(min=0).sqrt()
    return _result(base, cosines, sigmas, changed)


def _result(base: Spectrum, cosines: Tensor, sigmas: Tensor, delta: Tensor) -> MatrixResult:
    """With the singular values ``delta`` of the change."""
    spectral, total = float(delta[0]), float(delta.sum())
    share = delta[delta > 0] / total if total else delta[:0]
    return MatrixResult(
        cosines=cosines.cpu().numpy(),
        sigmas=sigmas.cpu().numpy(),
        delta_norm=float(delta.norm()),
        relative_spectral_norm=spectral / float(base.d[0]) if float(base.d[0]) else 0.0,
        effective_rank=float(torch.exp(-(share * share.log()).sum())) if total else 0.0,
    )


def _singular_values(a: Tensor, b: Tensor) -> Tensor:
    """Singular values [r] of B A from its r x r core."""
    core = torch.linalg.qr(b).R @ torch.linalg.qr(a.mT).R.mT
    return torch.linalg.svdvals(core)


def _top_eigenpairs(diagonal: Tensor, left: Tensor, right: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values [k] falling, vectors [p, k]) of diag(diagonal) + left right^T + right left^T.

    Large ones on a CPU by Lanczos, which needs products with the matrix only (5 ms against 15 for LAPACK at p = 576,
    and no p x p memory); whatever it does not solve to 1e-10 of the largest eigenvalue is solved densely.
    """
    p = len(diagonal)
    if diagonal.device.type == "cpu" and p >= LANCZOS_FROM:
        found = _lanczos(diagonal.numpy(), left.numpy(), right.numpy(), k)
        if found is not None:
            return torch.from_numpy(found[0]), torch.from_numpy(found[1])
    product = left @ right.mT
    gram = product + product.mT
    gram.diagonal().add_(diagonal)
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(0)[:k], vectors.flip(1)[:, :k]


def _lanczos(diagonal: np.ndarray, left: np.ndarray, right: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The same, checked by its residuals; none where they are too large."""

    def product(v: np.ndarray) -> np.ndarray:
        return (diagonal * v.T).T + left @ (right.T @ v) + right @ (left.T @ v)

    operator = scipy.sparse.linalg.LinearOperator((len(diagonal),) * 2, matvec=product, dtype=np.float64)
    start = np.ones(len(diagonal))  # fixed, so that a run can be repeated to the last bit
    try:
        values, vectors = scipy.sparse.linalg.eigsh(operator, k=k, which="LA", v0=start, ncv=4 * k, tol=1e-12)
    except scipy.sparse.linalg.ArpackError:
        return None
    order = np.argsort(-values)
    values, vectors = values[order], vectors[:, order]
    residual = np.linalg.norm(product(vectors) - vectors * values, axis=0).max()
    return (values, vectors) if residual <= 1e-10 * abs(values[0]) else None


def summarise(results: Sequence[MatrixResult]) -> dict:
    """Sums of counts and means of the rest over matrices, with the field names of ``store.records.Intruders``."""
    return {
        "matrices": len(results),
        "count": sum(result.count() for result in results),
        "by_epsilon": {str(epsilon): sum(result.count(epsilon) for result in results) for epsilon in EPSILONS},
        **{
            name: float(np.mean([getattr(result, name) for result in results]))
            for name in ("distance", "energy_share", "delta_norm", "relative_spectral_norm", "effective_rank")
        },
    }


def summarise_by(labelled: Iterable[tuple[str, str, MatrixResult]]) -> dict:
    """The summary over all (projection, layer, result), and the same by projection and by layer."""
    entries = list(labelled)

    def grouped(position: int) -> dict[str, dict]:
        labels = dict.fromkeys(entry[position] for entry in entries)
        return {label: summarise([e[2] for e in entries if e[position] == label]) for label in labels}

    return {**summarise([entry[2] for entry in entries]), "by_type": grouped(0), "by_layer": grouped(1)}
