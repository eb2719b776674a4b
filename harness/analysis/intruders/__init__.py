"""Intruder dimensions (arXiv 2410.21228): singular directions of W0 + dW that are like none of W0's.

Definition: among the top k = 10 left singular vectors of W = W0 + s B A, by singular value, count those whose largest
|cosine| with ANY left singular vector of W0 is below eps = 0.5.

The counts here are those of full SVDs in fp64, at a small part of their cost: :mod:`.problem` says to what eigenproblem
the question comes down, :mod:`.solver` solves it for many matrices at a time (:mod:`.block` where the change has no low
rank, see :mod:`.dense`), :mod:`.certificate` bounds every cosine.  What the bounds leave open goes to a full SVD; what
that leaves open, because singular values or a cosine and eps are equal to the last bits, is recorded as undecided,
between bounds.
"""

from harness.analysis.intruders.dense import analyse_dense
from harness.analysis.intruders.measure import analyse, stacked
from harness.analysis.intruders.piece import DenseChange
from harness.analysis.intruders.results import EPSILON, EPSILONS, TOP_K, Measured, summaries
from harness.analysis.intruders.spectrum import Spectrum, Turn, spectrum, spectrum_on_host

__all__ = [
    "EPSILON", "EPSILONS", "TOP_K", "DenseChange", "Measured", "Spectrum", "Turn", "analyse", "analyse_dense",
    "spectrum", "spectrum_on_host", "stacked", "summaries",
]  # fmt: skip
