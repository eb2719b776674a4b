"""The driver's side of letters from workers that don't see the results folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError

from harness.errors import LorabenchError, clipped
from harness.executors.interface import Job
from harness.executors.ray import messages, settings
from harness.executors.ray.away import Errand
from harness.executors.ray.home import Home
from harness.executors.ray.post import CHUNK, Letter, open_office

if TYPE_CHECKING:
    from harness.executors.ray.flight import Running


class Mail:
    """The letters of one run."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        """Raises FolderError where the results folder can't be written."""
        self._homes: dict[Path, Home] = {}
        for folder in {job.folder for job in jobs}:
            self._homes[folder] = Home(folder)
        self._folders = {job.name: job.folder for job in jobs}
        self._marked: set[tuple[str, int]] = set()
        self._office = open_office()
        self.coming = self._office.take.remote()  #: the next letters

    def close(self) -> None:
        with suppress(RayError, ValueError):
            ray.kill(self._office)
        for home in self._homes.values():
            home.close()

    def errand(self, job: Job, attempt: int) -> Errand:
        return Errand(self._homes[job.folder].token, attempt, self._office)

    def deliver(self, running: Mapping[str, Running]) -> None:
        """Take the letters that have come, and do what they ask for."""
        try:
            letters = ray.get(self.coming)
        except RayError as error:
            raise LorabenchError(
                f"what workers send home is lost: {type(error).__name__}: {clipped(str(error), 400)}",
                where=settings.WHERE,
                remedy=f"see to the cluster's node with this run's driver, then {messages.AGAIN}",
            ) from error
        for letter in letters:
            self._open(letter, running.get(letter.job))
        self.coming = self._office.take.remote()

    def settle(self, given: Running, running: Mapping[str, Running]) -> None:
        """Take all that the worker of a job has sent, which is there once its outcome is, and what others send, who are
        ``running`` still.
        """
        self._office.send.remote(Letter("mark", given.job.name, given.attempt))
        self._marked.discard((given.job.name, given.attempt))
        while (given.job.name, given.attempt) not in self._marked:
            self.deliver({**running, given.job.name: given})

    def _open(self, letter: Letter, given: Running | None) -> None:
        home = self._homes[self._folders[letter.job]]
        current = given is not None and given.attempt == letter.attempt
        if letter.kind == "want":
            content = home.read(letter.path, letter.offset, CHUNK)
            self._office.answer.remote(letter.path, letter.offset, content)
            if given and current:
                given.away = True
        elif letter.kind == "mark":
            self._marked.add((letter.job, letter.attempt))
        elif letter.kind == "file":
            if current or not letter.path.startswith("running/"):  # a checkpoint of one who is thought dead is old
                home.receive((letter.job, letter.attempt), letter.path, letter.offset, letter.content, letter.size)
        elif given and current:
            if letter.kind == "gone":
                home.forget(letter.path)
            else:
                given.signs.put(letter.content)
