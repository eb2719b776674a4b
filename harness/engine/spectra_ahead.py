"""The base's decompositions, made by a thread while a pack trains and scores on the same GPU.

They are read at the first boundary.  On an H200 those of a model of 135M take 9 s, in kernels that leave most of the
card free.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from harness.engine.captures import beside_captures
from harness.engine.spectra import Matrices, Say, announced, make_file


class SpectraAhead:
    """Puts the decompositions of a model's matrices into the cache, where they are not, and leaves them there.

    What fails here (the disk is full) fails again, and is raised, where they are asked for.
    """

    def __init__(self, model: Matrices, cache: Path) -> None:
        self._announced, self._stopped, stream = announced(model), threading.Event(), None
        if model.device.type == "cuda":
            torch.linalg.svd(torch.ones(1, 1, device=model.device))  # loads its library, as one thread at a time may
            stream = torch.cuda.Stream(model.device)
            stream.wait_stream(torch.cuda.current_stream(model.device))
        given = (model, cache, stream, torch.get_num_threads())
        self._thread = threading.Thread(target=self._make, args=given, name="spectra")
        self._thread.start()

    def wait(self, say: Say) -> None:
        """Until they are made, or can't be; ``say`` is told where that is not yet so."""
        if self._thread.is_alive():
            say(self._announced)
        self._thread.join()

    def stop(self) -> None:
        """Give up with the matrix that is at work; nothing is left of what was not complete."""
        self._stopped.set()
        self._thread.join()

    def _make(self, model: Matrices, cache: Path, stream: torch.cuda.Stream | None, threads: int) -> None:
        torch.set_num_threads(threads)  # a new thread has those of the machine
        with suppress(Exception), torch.cuda.stream(stream):
            make_file(model, cache, self._turn)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._stopped.is_set():
            raise _StoppedError
        with beside_captures():
            yield


class _StoppedError(Exception):
    """Nobody asks for them any more."""
