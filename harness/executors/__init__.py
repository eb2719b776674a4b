"""Where jobs run: in this process (``local``) or on Ray's workers (``ray``), behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from harness.errors import unknown_name

if TYPE_CHECKING:
    from harness.run.job import Job
    from harness.run.worker import Outcome

#: Called with (job's name, units of work it has done, what it is doing).
Watch = Callable[[str, float, str], None]

EXECUTORS = ("ray", "local")


class Executor(Protocol):
    """Runs jobs that do not depend on each other."""

    def device(self, wanted: str) -> str:
        """``cpu`` or ``cuda``, for a study that wants ``cpu``, ``cuda`` or ``any``; refuses what is not there."""
        ...

    def run(self, jobs: Sequence[Job], watch: Watch) -> list[Outcome]:
        """The outcome of every job, in order.  Jobs that raise stop the run; what has been written stays."""
        ...

    def close(self) -> None: ...


def make_executor(name: str) -> Executor:
    """The executor of this name; Ray is imported only when it is asked for."""
    if name == "local":
        from harness.executors.local import LocalExecutor

        return LocalExecutor()
    if name == "ray":
        from harness.executors.ray.settings import prepare

        prepare()  # before ray is imported, which reads its settings then
        from harness.executors.ray.executor import RayExecutor

        return RayExecutor()
    raise unknown_name("executor", name, EXECUTORS, where="--executor")
