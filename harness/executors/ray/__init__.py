"""The jobs on Ray's workers: the only modules that import ray, and nothing here does so by being imported.

``settings`` is Ray's environment, which has to be there before ray is imported; ``cluster`` starts Ray or joins it, and
says in one message why that failed or what died; ``task`` is a worker's side of a job, ``executor`` the driver's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.executors.interface import Executor


def make() -> Executor:
    """The executor, on a cluster that is started here or joined where ``RAY_ADDRESS`` says."""
    from harness.executors.ray.settings import prepare

    prepare()  # before ray is imported, which reads its settings then
    from harness.executors.ray.executor import RayExecutor

    return RayExecutor()
