"""What others do with the same examples: HF's Trainer and PEFT, one process a trial, alone or sharing the device.

Processes are started once and then told to train for so long, in turns with our packs; what they do is in
:mod:`harness.perf.peer_train`.  None outlives this one: each ends with its input, and is killed with what it started.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any

import numpy as np

from harness.errors import LorabenchError

PROGRAM = Path(__file__).with_name("peer_train.py")
#: What HF's Trainer with PEFT takes to run.
NEEDED = ("accelerate", "peft", "transformers")
#: Seconds that a process may take to start (16 of them on 16 cores: about 30), and beyond what it is told to train.
START_SECONDS, MORE_SECONDS = 180.0, 60.0
POLL_SECONDS = 0.2


def missing() -> str:
    """Why there are no peers on this machine; empty where there are."""
    absent = [name for name in NEEDED if find_spec(name) is None]
    return f"{', '.join(absent)}: not installed (pip install {' '.join(absent)})" if absent else ""


class PeerError(LorabenchError):
    """A peer has died, or doesn't answer."""


class Peer:
    """One process, from its start to its end."""

    def __init__(self, program: Path, settings: Path, log: Path) -> None:
        self.log, self.began = log, time.monotonic()
        self.start_seconds = 0.0  #: until its model was there
        with log.open("w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(program), str(settings)],  # -P: our statistics.py is not Python's
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
            )  # fmt: skip
        self._lines: Queue[str] = Queue()
        Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()

    def _read(self, answers: IO[str]) -> None:
        for line in answers:
            self._lines.put(line)

    def tell(self, **message: Any) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # it has died: its answer will say so
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any]:
        """Its next line.  Raises :class:`PeerError`, with the end of what it said last."""
        until, where = time.monotonic() + seconds, f"process {self.process.pid}"
        while True:
            status = self.process.poll()  # asked first: what it said before it ended is read
            try:
                return json.loads(self._lines.get(timeout=POLL_SECONDS))
            except Empty:
                if status is not None:  # no end of its output: a child of its own may still hold that open
                    raise PeerError(f"died with status {status}: {self._last_words()}", where=where) from None
                if time.monotonic() > until:
                    raise PeerError(f"no answer within {seconds:.0f} s", where=where) from None

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def kill(self) -> None:
        """End it and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # a session's first process names its group
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


@dataclass
class Peers:
    """Processes that wait to be told; ``tokens`` are those of a step, on average, of each kind."""

    processes: list[Peer]
    tokens: Mapping[str, float]
    failures: list[str] = field(default_factory=list)

    def train(self, count: int, kind: str, seconds: float, threads: int = 1) -> dict[str, float]:
        """Tokens a second of the first ``count`` together, while all of them train, and what else is known of it.

        Raises :class:`PeerError` where fewer are there; one that dies is never told again.
        """
        told = self.processes[:count]
        if len(told) < count:
            raise PeerError(f"{count} processes were wanted, and {len(told)} are alive")
        for peer in told:
            peer.tell(kind=kind, seconds=seconds, threads=threads)
        answers: list[dict[str, Any]] = []
        for peer in told:
            try:
                answers.append(peer.answer(seconds + MORE_SECONDS))
            except PeerError as error:
                self._drop(peer, error)
        if len(answers) < count:
            raise PeerError(self.failures[-1])
        return together([answer["ends"] for answer in answers], self.tokens[kind])

    def start(self) -> None:
        """Wait until they are ready; those that died on their way are dropped."""
        for peer in list(self.processes):
            try:
                peer.start_seconds = peer.answer(START_SECONDS).get("loaded", peer.began) - peer.began
            except PeerError as error:
                self._drop(peer, error)

    def _drop(self, peer: Peer, error: PeerError) -> None:
        peer.kill()
        self.processes.remove(peer)
        self.failures.append(str(error))


@contextmanager
def peers(
    count: int, settings: Mapping[str, Any], tokens: Mapping[str, float], folder: Path, program: Path = PROGRAM
) -> Iterator[Peers]:
    """``count`` processes with these settings; they load while the caller goes on, until :meth:`Peers.start`."""
    file = folder / "peer.json"
    file.write_text(json.dumps({**settings, "folder": str(folder)}), encoding="utf-8")
    made: list[Peer] = []
    try:
        made.extend(Peer(program, file, folder / f"peer{i}.log") for i in range(count))
        yield Peers(list(made), tokens)
    finally:
        for peer in made:
            peer.kill()


def together(ends: Sequence[Sequence[float]], tokens: float) -> dict[str, float]:
    """Tokens a second of processes whose steps of so many tokens ended at these moments, while all were at work."""
    start, stop = max(each[0] for each in ends), min(each[-1] for each in ends)
    if stop <= start:
        raise PeerError("the processes were never at work at the same time")
    done = [np.interp([start, stop], each, np.arange(len(each))) for each in ends]
    steps = [float(after - before) for before, after in done]
    return {
        "tokens_per_second": tokens * sum(steps) / (stop - start),
        "steps": sum(steps),
        "step_ms": 1000 * statistics.median(np.concatenate([np.diff(each) for each in ends]).tolist()),
    }
