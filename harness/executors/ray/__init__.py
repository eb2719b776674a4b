"""The jobs on Ray's workers: the only modules that import ray, and nothing here does so by being imported.

A run has a ``supervisor``, which imports no ray and speaks for it, and below it a ``driver``, a process that Ray's C++
may end.  ``settings`` is Ray's environment, which has to be there before ray is imported; ``cluster`` starts Ray or
joins it, with a ``parcel`` of code for its workers, and watches it; ``messages`` are what is said of one that fails.
``nodes`` are what is there (each says so in ``look``), ``room`` how many jobs they have a place for.  ``task`` is a
worker's side of a job, ``staying`` whether its process goes on to the next; ``executor`` is the driver's, to which jobs
are ``sealed`` (``opening`` says what a node lacks for them), and ``flight`` all jobs of a run.  A worker that does not
see the results folder is ``away``: what it writes goes by ``post``, which the driver opens (``mail``) and puts where it
belongs (``home``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.executors.interface import Executor


def make() -> Executor:
    """The executor, on a cluster that is started here or joined where ``RAY_ADDRESS`` says."""
    from harness.executors.ray.supervisor import Supervisor

    return Supervisor()
