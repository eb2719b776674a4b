"""Where jobs run, behind one interface (:class:`harness.executors.interface.Executor`).

A new executor is a module or package of its name here with a function ``make``, and a line of :data:`EXECUTORS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from harness.errors import unknown_name

if TYPE_CHECKING:
    from harness.executors.interface import Answer, Executor, Job, Outcome, Watch, Work
    from harness.study.config import ResourceSettings
    from harness.study.stack import Device

#: Module -> what a person should know of it; the first is the default.
EXECUTORS = {
    "ray": "on Ray's workers, as many at a time as there is room for",
    "local": "one after the other in this process, without importing ray",
}


def make_executor(name: str) -> Executor:
    """The executor of this name; its module, and so Ray, is imported only when it is asked for.

    Raises InputError for one there is not.
    """
    _check(name)
    return import_module(f"harness.executors.{name}").make()


def _check(name: str) -> None:
    if name not in EXECUTORS:
        raise unknown_name("executor", name, EXECUTORS, where="--executor")


class Deferred:
    """The executor of a name, made when it is first needed: to start Ray takes ten seconds.

    Raises InputError for an executor there is not, at once.
    """

    def __init__(self, name: str) -> None:
        _check(name)
        self.name = name
        self._executor: Executor | None = None

    def _made(self) -> Executor:
        if self._executor is None:
            self._executor = make_executor(self.name)
        return self._executor

    def device(self, wanted: str, resources: ResourceSettings | None = None) -> Device:
        return self._made().device(wanted, resources)

    def ask(self, question: Callable[[], Answer], device: Device) -> Answer:
        return self._made().ask(question, device)

    def run(self, jobs: Sequence[Job], work: Work, watch: Watch) -> list[Outcome]:
        return self._made().run(jobs, work, watch)

    def describe(self) -> str:
        return self._made().describe()

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def __enter__(self) -> Deferred:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
