"""What workers that don't see the results folder send home, through Ray.

An actor beside the driver keeps letters until the driver takes them; then the driver does with its folder what the
workers can't.  A letter is small enough for Ray to carry it within a call, so that none needs room in an object store,
which may be full.  Who sends a letter waits until there is room for it, so that the actor's memory stays small.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

CHUNK = 64 * 1024  #: bytes of a file in one letter; Ray carries up to 100 KiB within a call
KEPT = 256  #: letters that wait for the driver at most


class Letter(NamedTuple):
    """``kind`` is ``progress``, ``file``, ``gone``, ``want`` or ``mark``.

    ``content`` is what ``path`` has at ``offset``, or a progress file.  A ``mark`` comes after all that its worker has
    sent before.
    """

    kind: str
    job: str
    attempt: int  #: which try of the job says so
    path: str = ""  #: within the results folder
    offset: int = 0
    content: bytes = b""
    size: int = 0  #: of the whole file


class Office:
    """The actor."""

    def __init__(self) -> None:
        self._letters: deque[Letter] = deque()
        self._changed = asyncio.Condition()
        self._answers: dict[tuple[str, int], asyncio.Future[Any]] = {}

    async def send(self, letter: Letter) -> None:
        """Leave a letter, once there is room."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._letters) < KEPT)
            self._letters.append(letter)
            self._changed.notify_all()

    async def want(self, letter: Letter) -> tuple[bytes, int] | None:
        """A part of a file at home, and the size of that file; None where it is not there."""
        answer = self._answers.setdefault((letter.path, letter.offset), asyncio.get_running_loop().create_future())
        await self.send(letter)
        return await answer

    async def answer(self, path: str, offset: int, content: tuple[bytes, int] | None) -> None:
        """What the driver has found for those who want it."""
        future = self._answers.pop((path, offset), None)
        if future is not None and not future.done():
            future.set_result(content)

    async def take(self) -> list[Letter]:
        """What has come, once there is something: as much as Ray carries within a call."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._letters)
            taken, size = [], 0
            while self._letters and (not taken or size + len(self._letters[0].content) <= CHUNK) and len(taken) < KEPT:
                taken.append(self._letters.popleft())
                size += len(taken[-1].content) + 200
            self._changed.notify_all()
            return taken


def open_office() -> Any:
    """The actor, on the driver's node where it has one; it takes nothing that jobs need."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(Office)
    return actor.options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here).remote()
