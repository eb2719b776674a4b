"""Intruder dimensions of changes that have no low rank: weights trained themselves, DoRA's, averages of products.

Adapters merged into weights of 16 bits are such, too: rounding has full rank.  G = W W^T where m <= n, else W^T W, is
formed in fp64 in the basis that W is given in, and so is the Gram matrix of dW, for its norm and effective rank.  The
cosines are those of the top eigenvectors of the first, as in :mod:`.problem`: by :mod:`.block` on a GPU and for large
matrices, by LAPACK for one matrix a thread of a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.analysis.intruders.bounds import Bounds, Sizes
from harness.analysis.intruders.piece import DenseChange, Piece, Sized
from harness.analysis.intruders.results import TOP_K, Measured
from harness.analysis.intruders.threads import side_by_side
from harness.analysis.intruders.tridiagonal import effective_ranks

#: Numbers of the matrices G that are solved side by side on a GPU: 1 GB, and some 7 GB with all that belongs to them.
#: On a CPU it is one matrix at a time, which stays in its cache.
SIDE_BY_SIDE = {"cpu": 1, "cuda": 2**27}


def analyse_dense(changes: Sequence[DenseChange], top_k: int = TOP_K) -> Measured:
    """Intruders of W0 + dW, [S, T], for the T trials of each of S base matrices, of any shapes.

    A change that is not finite is taken as zero and is not ``finite`` in the result.  Matrices of one p are solved
    side by side; what the certificate leaves open goes to a library's decomposition (``DENSE``), then to a full SVD.
    """

    def work(portion: tuple[list[int], slice]) -> _Found:
        return _Found.of(changes, *portion, top_k)

    found = side_by_side(work, list(_portions(changes)), changes[0].weight.device)
    sizes = dict.fromkeys(change.size for change in changes)
    parts = [_joined([part for part in found if part.size == p], changes[0].trials) for p in sizes]
    order = [i for p in sizes for i, change in enumerate(changes) if change.size == p]
    return Measured.join(parts)[np.argsort(order)]


def _portions(changes: Sequence[DenseChange]) -> Iterator[tuple[list[int], slice]]:
    """(matrices of one p, trials) that are taken at a time."""
    trials, device = changes[0].trials, changes[0].weight.device.type
    for p in dict.fromkeys(change.size for change in changes):
        most = max(1, SIDE_BY_SIDE.get(device, SIDE_BY_SIDE["cpu"]) // p**2)
        members = [i for i, change in enumerate(changes) if change.size == p]
        members.sort(key=lambda i: tuple(changes[i].weight.shape))
        width = min(trials, most)
        for i in range(0, len(members), most // width):
            for first in range(0, trials, width):
                yield members[i : i + most // width], slice(first, min(first + width, trials))


@dataclass(frozen=True)
class _Found:
    """Of N problems of one size p, in no order."""

    places: Tensor  #: [N], which they are of all S x T
    bounds: Bounds
    solved: Tensor  #: [N]
    finite: Tensor  #: [N]
    top: Tensor  #: [N], ||W0||_2
    sized: Sized

    @classmethod
    def of(cls, changes: Sequence[DenseChange], members: list[int], trials: slice, top_k: int) -> _Found:
        piece = Piece([changes[i] for i in members], trials, top_k)
        places = torch.tensor(members)[:, None] * changes[0].trials + torch.arange(trials.start, trials.stop)
        return cls(places.flatten(), *piece.bounds(), piece.finite, piece.top, piece.sized)

    @property
    def size(self) -> int:
        return self.sized.diagonal.shape[1]


def _joined(found: Sequence[_Found], trials: int) -> Measured:
    """[S, T] of those with one p, in order."""
    places, solved, finite, top = (
        torch.cat([getattr(part, name) for part in found]) for name in ("places", "solved", "finite", "top")
    )
    norm, spectral, diagonal, beside = (
        torch.cat([getattr(part.sized, name) for part in found]) for name in ("norm", "spectral", "diagonal", "beside")
    )
    rank = effective_ranks(diagonal, beside, spectral**2)
    order = places.argsort().to(top.device)
    sizes = Sizes(norm[order], spectral[order], rank[order])
    shaped = (part[order].view(-1, trials) for part in (solved, finite))
    return Bounds.join([part.bounds for part in found])[order].measured(top[order], sizes, *shaped)
